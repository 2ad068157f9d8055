"""outside: scikit-learn's digits again, judged by a margin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ptq.cases import Case
from ptq.engine.workload import Workload
from ptq.workloads.digits import WORKLOAD as DIGITS
from ptq_outside.metric import Margin


def include(case: Case) -> bool:
    """A small grid: what is fast and safe on any CPU."""
    return case.is_float or (
        case.backend in ("onnxruntime", "outside")
        and case.dtype in ("uint8", "u8s8")
        and (case.backend == "outside" or case.dtype == "uint8")
        and case.method in ("minmax", "outside_cut", "outside_round")
        and case.granularity == "tensor"
        and case.exclude == "none"
    )


def WORKLOAD(data: Path | None) -> Workload:
    """The embedded digits, under a name and a metric of this package."""
    return replace(DIGITS(data), name="outside", metric=Margin(), include=include)
