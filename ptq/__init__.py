"""ptq: a test suite that is a benchmark for post-training quantization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptq.cases import Case
from ptq.checks import Check
from ptq.contract import InputContract
from ptq.errors import BadData, BadModel, NoData, NotInstalled, PtqError, Unsupported
from ptq.metrics.top1 import Top1
from ptq.result import Result
from ptq.samples import ArraySamples, Samples
from ptq.workload import Artifact, Source, Workload
from ptq.workloads import builtin_workloads

if TYPE_CHECKING:
    from ptq.plugin import CaseJudge

__all__ = [
    "ArraySamples",
    "Artifact",
    "BadData",
    "BadModel",
    "Case",
    "CaseJudge",
    "Check",
    "InputContract",
    "NoData",
    "NotInstalled",
    "PtqError",
    "Result",
    "Samples",
    "Source",
    "Top1",
    "Unsupported",
    "Workload",
    "builtin_workloads",
]
