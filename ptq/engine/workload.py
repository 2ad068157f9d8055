"""Workload: a float model, the samples to calibrate and evaluate it with, its input contracts and its metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ptq.cases import NONE, Case
from ptq.data.contract import InputContract
from ptq.data.reader import Reader
from ptq.data.samples import Samples
from ptq.metrics.metric import Metric


def listed(case: Case) -> bool:
    """Every case that excludes no node."""
    return case.exclude == NONE


@dataclass(frozen=True)
class Source:
    """Where a float model comes from, in more than one form.

    `onnx` is an .onnx file; `keras` the .h5, .keras or SavedModel it was converted from, for the backends that start
    there; `given` is what messages call it, where that is not `onnx`.
    """

    onnx: Path
    keras: Path | None = None
    given: Path | None = None


@dataclass(frozen=True)
class Artifact:
    """A quantized model made elsewhere, judged as it is.

    `path` is where it is, or a function that returns it or raises `NoData`; `backend` runs it; `dtype` is what it
    claims to be.
    """

    backend: str
    dtype: str
    path: Path | str | Callable[[], Path]


@dataclass(frozen=True, eq=False)
class Workload:
    """Something to judge.

    Parameters
    ----------
    name: of ``a-z 0-9 _ .``; the first part of its cases' ids.
    model: a path of an .onnx, .h5, .keras, float .tflite or of a SavedModel folder, or a function that returns such a
        path or a `Source`.
    calibration, evaluation: `Samples`, or functions that read them, called at first use; a `Reader` says which files it
        reads, and is not called at all where nothing has changed.
    contract: what every input batch must be, for a model of one input, or by input name; None: what the model's own
        inputs say.
    metric: how outputs are scored; None: top-1 accuracy where there are targets, else how far outputs are from the
        float model's.
    include: which of the backends' cases to list; by default `listed`.
    methods: names of methods to list that are not listed everywhere, see `Method.listed`.
    artifacts: quantized models made elsewhere, by name; the name is the `method` of their case.
    exclude: what the cases with ``exclude=auto`` keep in float: names of nodes, patterns as `fnmatch` has them, and
        ``auto`` for what the statistics propose.
    as_evaluated: reads the images calibration is drawn from through the evaluation pipeline: each calibration input is
        then one of these, byte for byte. A `Reader` is not called where its files and its code are as they were. None:
        not checked.
    invariants: what else must hold of the evaluation samples, by name; each raises `BadData` when it does not.
    unchecked: preprocessing checks that do not apply here, by name, and why: ``{"balance": "rare by nature"}``.

    The functions raise `NoData` when files are absent and `NotInstalled` when a converter is.
    """

    name: str
    model: Path | str | Callable[[], Path | str | Source]
    calibration: Samples | Reader | Callable[[], Samples]
    evaluation: Samples | Reader | Callable[[], Samples]
    contract: InputContract | Mapping[str, InputContract] | None = None
    metric: Metric | None = None
    include: Callable[[Case], bool] = listed
    methods: tuple[str, ...] = ()
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    exclude: tuple[str, ...] = ("auto",)
    as_evaluated: Callable[[], Samples] | None = None
    invariants: Mapping[str, Callable[[Samples], None]] = field(default_factory=dict)
    unchecked: Mapping[str, str] = field(default_factory=dict)
