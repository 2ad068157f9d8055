"""ptq: a test suite that is a benchmark for post-training quantization."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptq.api import Comparison, Evaluation, Quantized, compare, evaluate, quantize
from ptq.cases import Case
from ptq.checks.preprocessing import Check
from ptq.data.batch import Batch
from ptq.data.contract import InputContract
from ptq.data.inputs import read_inputs
from ptq.data.pictures import ImageOptions
from ptq.data.reader import Reader
from ptq.data.samples import ArraySamples, Samples
from ptq.engine.registry import Registry, declared
from ptq.engine.workload import Artifact, Source, Workload
from ptq.errors import BadData, BadModel, NoData, NotInstalled, PtqError, Unsupported
from ptq.gate.result import Result
from ptq.metrics.interval import Interval
from ptq.metrics.metric import Metric, Score
from ptq.metrics.top1 import Top1
from ptq.quantization.dtype import DTYPES, Dtype
from ptq.quantization.method import Method

if TYPE_CHECKING:
    from ptq.plugin.case_judge import CaseJudge as CaseJudge

__all__ = [
    "DTYPES",
    "ArraySamples",
    "Artifact",
    "BadData",
    "BadModel",
    "Batch",
    "Case",
    "Check",
    "Comparison",
    "Dtype",
    "Evaluation",
    "ImageOptions",
    "InputContract",
    "Interval",
    "Method",
    "Metric",
    "NoData",
    "NotInstalled",
    "PtqError",
    "Quantized",
    "Reader",
    "Result",
    "Samples",
    "Score",
    "Source",
    "Top1",
    "Unsupported",
    "Workload",
    "builtin_workloads",
    "compare",
    "evaluate",
    "quantize",
    "read_inputs",
]


def builtin_workloads(data: Path | None) -> Sequence[Workload]:
    """The workloads of ptq and of installed packages; those whose data is not in `data` are reported as not run."""
    return declared(Registry(), data)


def __getattr__(name: str) -> Any:
    """`CaseJudge` is for annotations in tests: it alone needs pytest, which a user of the functions may not have."""
    if name == "CaseJudge":
        from ptq.plugin.case_judge import CaseJudge

        return CaseJudge
    raise AttributeError(f"module 'ptq' has no attribute {name!r}")
