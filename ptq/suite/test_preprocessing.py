"""The suite: what goes into every workload's model is what the model was trained on."""

from __future__ import annotations

import pytest

import ptq


@pytest.mark.preprocessing
def test_preprocessing(workload: str, check: ptq.Check, judge: ptq.CaseJudge) -> None:
    judge.check(workload, check)
