"""The suite: what a case claims to be is what its runtime executes."""

from __future__ import annotations

import pytest

import ptq


@pytest.mark.structure
def test_structure(case: ptq.Case, judge: ptq.CaseJudge) -> None:
    judge.structure(case)
