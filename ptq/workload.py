"""Workload: a float model, the samples to calibrate and evaluate it with, its input contract and its metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ptq.cases import NONE, Case
from ptq.contract import InputContract
from ptq.metrics.metric import Metric
from ptq.metrics.top1 import Top1
from ptq.samples import Samples
from ptq.store import Store

SAME_MODEL: Mapping[tuple[str, str, str], str] = {
    ("onnxruntime", "int8", "mse_gptq"): "level for level u8s8 mse_gptq moved by 128, which runs in integer on x86 too",
}
"""By (backend, dtype, method), cases that say again what another says, and why: made when asked for, not listed."""


def listed(case: Case) -> bool:
    """Every case that excludes no node and is not the same model as another (`SAME_MODEL`)."""
    return case.exclude == NONE and (case.backend, case.dtype, case.method) not in SAME_MODEL


@dataclass(frozen=True)
class Source:
    """Where a float model comes from: an .onnx as it is, or what it was converted from as well.

    `keras` is the file `onnx` was converted from, None when it was ONNX from the start.
    """

    onnx: Path
    keras: Path | None = None


@dataclass(frozen=True)
class Artifact:
    """A quantized model made elsewhere, judged as it is.

    `path` returns where it is, or raises `NoData`; `dtype` is what it claims to be.
    """

    backend: str
    dtype: str
    path: Callable[[], Path]


@dataclass(frozen=True, eq=False)
class Workload:
    """Something to judge.

    Parameters
    ----------
    name: of ``a-z 0-9 _ .``; the first part of its cases' ids.
    model: an .onnx path, or a function of the store that returns a `Source` (it may convert, and keep what it made).
    calibration, evaluation: `Samples`, or functions that read them; read once a process, at first use.
    contract: what every input batch must be.
    metric: how outputs are scored; top-1 accuracy by default.
    include: which of the backends' cases to list; by default `listed`.
    artifacts: quantized models made elsewhere, by name; the name is the `method` of their case.
    exclude: what the cases with ``exclude=auto`` keep in float: names of nodes, patterns as `fnmatch` has them, and
        ``auto`` for what the statistics propose.
    as_evaluated: reads the images calibration is drawn from through the evaluation pipeline: each calibration input is
        then one of these, byte for byte. None: not checked.
    invariants: what else must hold of the evaluation samples, by name; each raises `BadData` when it does not.

    The functions raise `NoData` when files are absent and `NotInstalled` when a converter is.
    """

    name: str
    model: Path | str | Callable[[Store], Source]
    calibration: Samples | Callable[[], Samples]
    evaluation: Samples | Callable[[], Samples]
    contract: InputContract
    metric: Metric = field(default_factory=Top1)
    include: Callable[[Case], bool] = listed
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    exclude: tuple[str, ...] = ("auto",)
    as_evaluated: Callable[[], Samples] | None = None
    invariants: Mapping[str, Callable[[Samples], None]] = field(default_factory=dict)
