"""What a backend is: it quantizes a float model, loads artifacts, and says what really runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ptq.cases import Case
from ptq.data.batch import Batch
from ptq.data.signature import Signature
from ptq.quantization.calibration import Calibration
from ptq.quantization.method import Method

Predictor = Callable[[Batch], Batch]
"""Takes a batch by input name, arrays of shape (n, ...), and returns the model's outputs by name, shape (n, ...)."""


@dataclass(frozen=True)
class FloatModel:
    """The float model in the forms a backend may start from.

    `onnx` is the model as given or as converted; `prepared` is `onnx` after shape inference and Conv+BatchNorm
    fusion; `keras` is the .h5 or .keras it came from, None when there was none. `exclude` is what a case
    with ``exclude=auto`` keeps in float, as `Workload.exclude` has it. `given` is the file the user named, where
    that is another than `onnx`.
    """

    onnx: Path
    prepared: Path
    keras: Path | None = None
    exclude: tuple[str, ...] = ("auto",)
    given: Path | None = None

    @property
    def name(self) -> Path:
        """What messages call the model: the file the user knows."""
        return self.given or self.onnx


COUNTED = frozenset({
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Attention", "LSTM", "GRU"),
    *("Add", "AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool"),
})  # fmt: skip
"""The kinds of node every backend's census counts, by ONNX's names: multiply-accumulate, Add and pooling. Other nodes
cost little beside these, and not every runtime leaves them a node of their own (Relu, Softmax)."""


@dataclass(frozen=True)
class Census:
    """What the runtime really executes: compute nodes by kind, of `COUNTED` alone.

    `integer` and `floating` count nodes by op type; `stray` counts quantize/dequantize nodes left around float
    kernels; `weight_bytes` maps a weight dtype to its bytes; `float_nodes` names the compute nodes in float;
    `simulated` says in words why integer execution is only simulated, None when it is real; `cause` is the likely
    cause of `float_nodes`, None when there are none or they are meant to be.
    """

    integer: Mapping[str, int]
    floating: Mapping[str, int]
    stray: int = 0
    weight_bytes: Mapping[str, int] = field(default_factory=dict)
    float_nodes: tuple[str, ...] = ()
    simulated: str | None = None
    cause: str | None = None

    @property
    def integer_share(self) -> float:
        """Integer compute nodes / all compute nodes, 0..1; 0.0 when there is none or it is simulated."""
        integer, floating = sum(self.integer.values()), sum(self.floating.values())
        if self.simulated is not None or integer + floating == 0:
            return 0.0
        return integer / (integer + floating)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Census:
        """The inverse of `dataclasses.asdict`, from JSON."""
        return cls(**{**content, "float_nodes": tuple(content["float_nodes"])})


class Backend(Protocol):
    """One runtime with its quantizer. Its own file or folder alone imports the framework, lazily.

    A backend is silent: it prints nothing and lets its framework print nothing. It asks the network for nothing. Its
    predictors run on as many threads as they are told.

    It may have three methods more. ``on_demand(case)``: whether a workload lists the case only when its `methods` name
    the case's method. ``graph(case)``: a word that tells cases of other kernels apart, where dtype, granularity and
    exclude do not; else one of them is timed for all. ``node_shares(model, batches)``: by node of a float ONNX model,
    its share of the time of a run, 0..1.
    """

    name: str

    def missing(self) -> str | None:
        """None when the framework can be imported, else one line: ``not installed: pip install 'ptq[extra]'``."""
        ...

    def versions(self) -> Mapping[str, str]:
        """Versions of every library that can change an artifact or a prediction: they key the store."""
        ...

    def cases(self, workload: str, methods: Mapping[str, Method]) -> Iterable[Case]:
        """Every case of this backend, the impossible ones too; must not import the framework.

        `methods` are those there are, those from outside ptq included.
        """
        ...

    def unsupported(self, case: Case) -> str | None:
        """Why a case cannot be, in the framework's own words where it has any; None when it can. A dtype that the
        backend does not make is among them: the case's name would say what the file is not.
        """
        ...

    def suffix(self, case: Case) -> str:
        """File suffix of the case's artifact, with the dot."""
        ...

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration, out: Path) -> Mapping[str, str]:
        """Write the case's artifact to `out` (for fp32: the float model in this backend's form).

        Returns notes for the report, e.g. ``{"calibration": "own observers"}``. Same inputs give the same bytes.
        """
        ...

    def load(self, artifact: Path, threads: int = 1) -> Predictor:
        """A predictor over an artifact; `BadModel` when the file is not one.

        It takes the float model's input names. A model of one input takes its batch under any name.
        """
        ...

    def signature(self, artifact: Path) -> Signature:
        """What the artifact takes and returns; `BadModel` when it is not one."""
        ...

    def census(self, artifact: Path) -> Census:
        """What the runtime would execute for this artifact."""
        ...

    def inspect(self, artifact: Path) -> Iterable[tuple[str, str, str]]:
        """(name, type, more) of every part of an artifact, in its own order."""
        ...
