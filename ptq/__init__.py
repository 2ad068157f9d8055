"""ptq: a test suite that is a benchmark for post-training quantization."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptq.api import (
        Comparison,
        Evaluation,
        Explanation,
        Quantized,
        Tuned,
        compare,
        evaluate,
        explain,
        quantize,
        quantize_all,
        tune,
    )
    from ptq.cases import Case
    from ptq.checks.preprocessing import Check
    from ptq.data.batch import Batch
    from ptq.data.contract import InputContract
    from ptq.data.inputs import read_inputs
    from ptq.data.pictures import ImageOptions
    from ptq.data.reader import Reader
    from ptq.data.samples import ArraySamples, Samples
    from ptq.engine.registry import builtin_workloads
    from ptq.engine.workload import Artifact, Source, Workload
    from ptq.errors import BadData, BadModel, NoData, NotInstalled, PtqError, Unsupported
    from ptq.gate.result import Result
    from ptq.metrics.interval import Interval
    from ptq.metrics.metric import Metric, Score
    from ptq.metrics.top1 import Top1
    from ptq.plugin.case_judge import CaseJudge as CaseJudge
    from ptq.quantization.dtype import DTYPES, Dtype
    from ptq.quantization.method import Method, Transform

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
    "Explanation",
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
    "Transform",
    "Tuned",
    "Unsupported",
    "Workload",
    "builtin_workloads",
    "compare",
    "evaluate",
    "explain",
    "quantize",
    "quantize_all",
    "read_inputs",
    "tune",
]

_HOMES = {
    "ptq.api": (
        "Comparison",
        "Evaluation",
        "Explanation",
        "Quantized",
        "Tuned",
        "compare",
        "evaluate",
        "explain",
        "quantize",
        "quantize_all",
        "tune",
    ),
    "ptq.cases": ("Case",),
    "ptq.checks.preprocessing": ("Check",),
    "ptq.data.batch": ("Batch",),
    "ptq.data.contract": ("InputContract",),
    "ptq.data.inputs": ("read_inputs",),
    "ptq.data.pictures": ("ImageOptions",),
    "ptq.data.reader": ("Reader",),
    "ptq.data.samples": ("ArraySamples", "Samples"),
    "ptq.engine.registry": ("builtin_workloads",),
    "ptq.engine.workload": ("Artifact", "Source", "Workload"),
    "ptq.errors": ("BadData", "BadModel", "NoData", "NotInstalled", "PtqError", "Unsupported"),
    "ptq.gate.result": ("Result",),
    "ptq.metrics.interval": ("Interval",),
    "ptq.metrics.metric": ("Metric", "Score"),
    "ptq.metrics.top1": ("Top1",),
    "ptq.plugin.case_judge": ("CaseJudge",),
    "ptq.quantization.dtype": ("DTYPES", "Dtype"),
    "ptq.quantization.method": ("Method", "Transform"),
}
"""By module, the public names it is the home of; each is imported when it is first used. `CaseJudge` is for annotations
in tests: it alone needs pytest, and is not in `__all__`."""


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'ptq' has no attribute {name!r}")
