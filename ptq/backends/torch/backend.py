"""TorchBackend: what both of torch's ways to quantize have in common; each says how it prepares, converts and runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptq.backends.batching import filled
from ptq.backends.installed import installed
from ptq.backends.int8_proof import require_int8
from ptq.backends.protocol import Census, FloatModel, Predictor
from ptq.backends.torch import observers as torch_observers
from ptq.backends.torch.file import Qparams, TorchFile, load_state
from ptq.backends.torch.from_onnx import TorchGraph, graph_module
from ptq.backends.torch.plain import Node, plain, require_plain
from ptq.backends.torch.runtime import deprecations, missing, predictor, running, tensors
from ptq.cases import FP32, Case
from ptq.data.batch import Batch, as_batch
from ptq.data.samples import first_batch
from ptq.data.signature import Signature
from ptq.errors import BadModel, NotInstalled, PtqError, Unsupported, one_line
from ptq.models.onnx_file import load
from ptq.quantization.calibration import Calibration
from ptq.quantization.method import UNCORRECTED, Method

if TYPE_CHECKING:
    import torch

DEFAULT = "default"
OWN = ("minmax", "histogram")
"""Methods whose ranges are chosen by torch's own observers; those of every other are handed over by ptq."""
GRANULARITIES = ("tensor", "channel")


@dataclass(frozen=True, eq=False)
class Runnable:
    """An artifact made to run: it takes `size` samples at a time, None for any number.

    `example` are inputs of a quantized one; `simulated` is as in `Census`.
    """

    module: torch.fx.GraphModule
    signature: Signature
    nodes: Mapping[str, Node]
    size: int | None
    example: tuple[Any, ...] = ()
    simulated: str | None = None


class TorchBackend(ABC):
    """One of torch's ways to quantize. The float form of both is the converted model as it is.

    Class variables
    ---------------
    kind: of the `TorchFile` of a quantized model; `ending` is the suffix of every artifact.
    no_uint8: why weights cannot be uint8, in the framework's own words.
    packages: what has to be there beside torch and onnx2torch.
    engine: torch's quantized engine, where the way has one.
    defaults: (method, granularity) of the framework's own configurations.
    """

    name: str
    kind: str
    ending: str
    no_uint8: str
    packages: tuple[str, ...] = ()
    engine: str | None = None
    defaults: tuple[tuple[str, str], ...] = ()

    def missing(self) -> str | None:
        return missing(*self.packages)

    def versions(self) -> Mapping[str, str]:
        return installed("torch", *self.packages, "onnx2torch", "onnx", "numpy")

    def cases(self, workload: str, methods: Mapping[str, Method]) -> Iterable[Case]:
        yield Case(workload, self.name, FP32)
        for method, granularity in self.defaults:
            yield Case(workload, self.name, "u8s8", method, granularity)
        plain = (name for name, method in methods.items() if method.corrects is None and not method.dynamic)
        for method in (*OWN, *(name for name in plain if name not in OWN)):
            for granularity in GRANULARITIES:
                yield Case(workload, self.name, "u8s8", method, granularity)
        yield Case(workload, self.name, "uint8", "minmax")

    def unsupported(self, case: Case) -> str | None:
        return None if case.dtype in (FP32, "u8s8") else self.no_uint8

    def suffix(self, case: Case) -> str:
        return self.ending

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration, out: Path) -> Mapping[str, str]:
        self._require(case.id)
        reason = self.unsupported(case)
        handed = None if case.is_float or case.method in (*OWN, DEFAULT) else case.method
        if handed is not None and reason is None and calibration.method(handed).corrects is not None:
            reason = UNCORRECTED
        if reason is not None:
            raise Unsupported(f"{case.id}: {reason}")
        proto = load(model.prepared)
        try:
            graph = graph_module(proto, model.name.name, absorb_pads=not case.is_float)
        except BadModel as error:
            raise Unsupported(f"{case.id}: {error}") from error
        if case.is_float:
            TorchFile("float", {}, proto.SerializeToString(), graph.module.state_dict()).save(out)
            return {}
        said: list[str] = []
        with running(1, self._engine(case)), deprecations(said):
            example = tuple(tensors(_first(calibration, graph.signature), graph.signature))
            with _own_words(case, model):
                prepared = self.prepare(graph, case.method, case.granularity, example)
            watched = torch_observers.observers(prepared, self.keeps)
            names = torch_observers.tensor_names(graph)
            with _own_words(case, model):
                qparams, how = torch_observers.choose(prepared, watched, handed, calibration, names, graph.signature)
            with _own_words(case, model):
                converted = self.convert(prepared, case.granularity, qparams)
            with _own_words(case, model):
                runnable = self.runnable(converted, graph, example)
                for other in _of_other_shapes(calibration, graph.signature, example):
                    runnable.module(*(values[: runnable.size] for values in other))
            require_int8(case, self.count(runnable))
            shapes = ";".join(",".join(map(str, value.shape)) for value in example)
            settings = {"granularity": case.granularity, "shapes": shapes}
            TorchFile(self.kind, settings, proto.SerializeToString(), self.state(converted), qparams).save(out)
        notes = {**self.notes(case, runnable), **how}
        return {**notes, "deprecated": "; ".join(said)} if said else notes

    def load(self, artifact: Path, threads: int = 1) -> Predictor:
        runnable = self._rebuilt(artifact)
        return predictor(runnable.module, runnable.signature, runnable.size, threads, str(artifact))

    def signature(self, artifact: Path) -> Signature:
        self._require(str(artifact))
        return plain(self._file(artifact).model(str(artifact)), str(artifact)).signature

    def census(self, artifact: Path) -> Census:
        runnable = self._rebuilt(artifact)
        with running(1), deprecations():
            return self.count(runnable)

    def inspect(self, artifact: Path) -> list[tuple[str, str, str]]:
        """(name, type, settings) of every part that computes or holds something."""
        return list(self.parts(self._rebuilt(artifact)))

    # What the two ways differ in.

    @abstractmethod
    def prepare(
        self, graph: TorchGraph, method: str, granularity: str, example: tuple[Any, ...]
    ) -> torch.fx.GraphModule:
        """The graph with observers; `example` are inputs of 2 samples, or as many as the model takes."""

    @abstractmethod
    def keeps(self, observer: Any) -> bool:
        """Whether nobody may choose what an observer answers, or it is a weight's."""

    @abstractmethod
    def convert(self, prepared: torch.fx.GraphModule, granularity: str, qparams: Qparams) -> torch.fx.GraphModule:
        """The quantized graph, activations by `qparams`, weights by their own observers."""

    @abstractmethod
    def runnable(self, converted: torch.fx.GraphModule, graph: TorchGraph, example: tuple[Any, ...]) -> Runnable:
        """The quantized graph in the form that runs."""

    @abstractmethod
    def state(self, converted: torch.fx.GraphModule) -> dict[str, Any]:
        """What of the quantized graph's state a file has to hold."""

    @abstractmethod
    def count(self, runnable: Runnable) -> Census:
        """The census of what runs."""

    @abstractmethod
    def notes(self, case: Case, runnable: Runnable) -> dict[str, str]:
        """What the report says of the way a case was quantized."""

    @abstractmethod
    def parts(self, runnable: Runnable) -> Iterator[tuple[str, str, str]]:
        """The rows of `inspect`."""

    def _require(self, name: str) -> None:
        if (reason := self.missing()) is not None:
            raise NotInstalled(f"{name}: {reason}")

    def _engine(self, case: Case) -> str | None:
        import torch

        if self.engine is not None and self.engine not in torch.backends.quantized.supported_engines:
            raise Unsupported(f"{case.id}: torch has no engine {self.engine} on this machine")
        return self.engine

    def _file(self, artifact: Path) -> TorchFile:
        return TorchFile.read(artifact, "float", self.kind)

    def _rebuilt(self, artifact: Path) -> Runnable:
        """A float or quantized artifact made to run; `BadModel` when it cannot be."""
        self._require(str(artifact))
        file, name = self._file(artifact), str(artifact)
        graph = graph_module(file.model(name), name, absorb_pads=file.kind != "float")
        if file.kind == "float":
            load_state(graph.module, file.state, name)
            return Runnable(graph.module, graph.signature, graph.nodes, graph.signature.batch)
        try:
            example = _example(file.settings["shapes"], graph.signature)
            with running(1, self.engine), deprecations():
                prepared = self.prepare(graph, "minmax", file.settings["granularity"], example)
                prepared(*example)  # observers of weights see them by a run
                converted = self.convert(prepared, file.settings["granularity"], file.qparams)
                require_plain((str(node.target) for node in converted.graph.nodes if node.op == "get_attr"), name)
                if wrong := set(self.state(converted)) ^ set(file.state):
                    raise BadModel(f"{name}: its state does not fit its graph ({min(wrong)})")
                whole = converted.state_dict()  # with its versions, and what the graph does not read
                whole.update(file.state)
                load_state(converted, whole, name)
                return self.runnable(converted, graph, example)
        except PtqError:
            raise
        # What a graph that was tampered with makes torch raise has no end.
        except Exception as error:
            raise BadModel(f"{name}: cannot be rebuilt ({one_line(error)})") from error


def _first(calibration: Calibration, signature: Signature) -> Batch:
    """Two calibration samples, or as many as the model takes: export takes a dimension of 1 for a constant."""
    size = signature.batch or 2
    return filled(first_batch(calibration.samples, size), size)


def _of_other_shapes(calibration: Calibration, signature: Signature, example: tuple[Any, ...]) -> Iterator[list[Any]]:
    """Samples of another shape than the example's, where shapes vary: an export may hold to those it has seen."""
    if any(None in tensor.shape[1:] for tensor in signature.inputs):
        for given in calibration.samples.batches(signature.batch or 1):
            found = tensors(as_batch(given), signature)
            if any(have.shape[1:] != seen.shape[1:] for have, seen in zip(found, example, strict=True)):
                yield found
                return


def _example(shapes: str, signature: Signature) -> tuple[Any, ...]:
    import torch

    found = [tuple(int(size) for size in shape.split(",")) for shape in shapes.split(";")]
    for shape, tensor in zip(found, signature.inputs, strict=True):
        fits = len(shape) == len(tensor.shape) and all(
            0 < have <= 2**16 and want in (None, have) for have, want in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"shape {shape}")
    return tuple(
        torch.zeros(shape, dtype=getattr(torch, tensor.dtype))
        for shape, tensor in zip(found, signature.inputs, strict=True)
    )


@contextmanager
def _own_words(case: Case, model: FloatModel) -> Iterator[None]:
    """What torch cannot do is `Unsupported`, in its own words."""
    try:
        yield
    except PtqError:
        raise
    except Exception as error:
        raise Unsupported(f"{case.id}: torch cannot quantize {model.name.name} ({one_line(error)})") from error
