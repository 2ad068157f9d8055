"""The suite: a quantized case is as fast as its bar demands, against the float model in the same process."""

from __future__ import annotations

from typing import Any

import pytest

import ptq


@pytest.mark.latency
def test_latency(case: ptq.Case, batch: int, judge: ptq.CaseJudge, benchmark: Any) -> None:
    judge.latency(case, batch, benchmark)
