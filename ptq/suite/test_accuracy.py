"""The suite: every case of every workload is at or above its bar."""

from __future__ import annotations

import pytest

import ptq


@pytest.mark.accuracy
def test_accuracy(case: ptq.Case, judge: ptq.CaseJudge) -> None:
    judge(case)
