"""PyTorch, FX graph mode quantization (torch.ao.quantization: deprecated, in torch 2.13 to 2.15 as it ever was).

The framework that `import torch` brings is meant everywhere here: imports are absolute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptq.backends import torch_census, torch_observers, torch_runtime
from ptq.backends.int8_proof import require_int8
from ptq.backends.protocol import Census, FloatModel, Predictor
from ptq.calibration.calibration import Calibration
from ptq.cases import FP32, Case
from ptq.errors import BadModel, Unsupported
from ptq.methods import UNCORRECTED, corrects, methods
from ptq.models.onnx_to_torch import first_line, graph_module
from ptq.models.torch_file import TorchFile, load_state

if TYPE_CHECKING:
    import torch

ENGINE = "x86"
DEFAULT = "default"
OWN = ("minmax", "histogram")
"""Methods whose ranges are chosen by torch's own observers; those of every other are handed over by ptq."""

_UINT8 = "torch: Weight observer must have a dtype of qint8, got torch.quint8"


class Torch:
    """ONNX -> onnx2torch -> prepare_fx -> convert_fx, run by fbgemm's and oneDNN's integer kernels.

    dtype ``int8`` is quint8 activations with qint8 weights: torch has no kernels for another pair. `reduce_range` is
    off but for method ``default``, torch's own configuration: exact on CPUs with VNNI, and better in every pair.
    """

    name = "torch"

    def missing(self) -> str | None:
        return torch_runtime.absent("torch", "onnx2torch")

    def versions(self) -> Mapping[str, str]:
        return torch_runtime.installed("torch", "onnx2torch", "onnx", "numpy")

    def cases(self, workload: str) -> Iterable[Case]:
        yield Case(workload, self.name, FP32)
        yield Case(workload, self.name, "int8", DEFAULT, "channel")
        for method in (*OWN, *(each for each in methods() if each not in OWN)):
            for granularity in ("tensor", "channel"):
                yield Case(workload, self.name, "int8", method, granularity)
        yield Case(workload, self.name, "uint8", "minmax")

    def unsupported(self, case: Case) -> str | None:
        if corrects(case.method):
            return UNCORRECTED
        return _UINT8 if case.dtype == "uint8" else None

    def suffix(self, case: Case) -> str:
        return ".pt"

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration, out: Path) -> Mapping[str, str]:
        import onnx
        import torch

        torch_runtime.require(case.id, self.missing())
        if (reason := self.unsupported(case)) is not None:
            raise Unsupported(f"{case.id}: {reason}")
        proto = onnx.load(model.prepared)
        module = graph_module(proto, model.prepared.name, absorb_pads=not case.is_float)
        if case.is_float:
            TorchFile("float", {}, proto.SerializeToString(), module.state_dict()).save(out)
            return {}
        if ENGINE not in torch.backends.quantized.supported_engines:
            raise Unsupported(f"{case.id}: torch has no engine {ENGINE} on this machine")
        notes = {
            "activations": "quint8 per tensor",
            "weights": f"qint8 per {case.granularity}",
            "engine": ENGINE,
            "reduce_range": str(case.method == DEFAULT),
        }
        said: list[str] = []
        with torch_runtime.running(1, ENGINE), torch_runtime.deprecations(said):
            tensors = torch_observers.tensor_names(module, torch_runtime.entry(proto).name)
            batch = torch_runtime.batch_of(proto)
            shape = (batch or 1, *next(iter(calibration.samples.batches(1))).shape[1:])
            prepared = _prepare(module, case.method, case.granularity, shape)
            qparams, how = torch_observers.choose(
                prepared,
                torch_observers.observers(prepared, _is_fixed),
                case.method if case.method in methods() and case.method not in OWN else None,
                calibration,
                tensors,
                batch,
            )
            converted = _convert(prepared, qparams)
            require_int8(case, torch_census.census(converted, shape))
            settings = {"granularity": case.granularity, "shape": ",".join(map(str, shape))}
            TorchFile("fx", settings, proto.SerializeToString(), converted.state_dict(), qparams).save(out)
        return {**notes, **how, "deprecated": "; ".join(said)} if said else {**notes, **how}

    def load(self, artifact: Path, threads: int = 1) -> Predictor:
        module, _, batch = _rebuild(artifact)
        return torch_runtime.predictor(module, batch, threads)

    def input_shape(self, artifact: Path) -> tuple[int | None, ...]:
        torch_runtime.require(str(artifact), self.missing())
        return torch_runtime.shape_of(TorchFile.read(artifact, "float", "fx").model(str(artifact)))

    def census(self, artifact: Path) -> Census:
        module, shape, _ = _rebuild(artifact)
        with torch_runtime.running(1), torch_runtime.deprecations():
            return torch_census.census(module, shape)

    def inspect(self, artifact: Path) -> list[tuple[str, str, str]]:
        """(name, type, settings) of every module that holds or computes something."""
        module, _, _ = _rebuild(artifact)
        return torch_census.named_modules(module)


def _is_fixed(observer: Any) -> bool:
    """Whether an observer's answer is set by the operator, as softmax's 1/256: nobody may choose it."""
    return type(observer).__name__.startswith("FixedQParams")


def _configuration(method: str, granularity: str) -> Any:
    """torch's QConfigMapping: quint8 activations, symmetric qint8 weights, fixed ranges where an operator has them."""
    import torch
    from torch.ao.quantization import (
        HistogramObserver,
        MinMaxObserver,
        PerChannelMinMaxObserver,
        QConfig,
        get_default_qconfig_mapping,
    )

    mapping = get_default_qconfig_mapping(ENGINE)
    if method == DEFAULT:
        return mapping
    observer = HistogramObserver if method == "histogram" else MinMaxObserver
    activation = observer.with_args(dtype=torch.quint8, qscheme=torch.per_tensor_affine, reduce_range=False)
    weight = (
        PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
        if granularity == "channel"
        else MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
    )
    chosen = QConfig(activation=activation, weight=weight)
    mapping.set_global(chosen)
    for kind, config in list(mapping.object_type_qconfigs.items()):
        if config is not None and not _is_fixed(config.activation()):
            mapping.set_object_type(kind, chosen)
    return mapping


def _prepare(
    module: torch.fx.GraphModule, method: str, granularity: str, shape: tuple[int, ...]
) -> torch.fx.GraphModule:
    import torch
    from torch.ao.quantization.quantize_fx import prepare_fx

    prepared: torch.fx.GraphModule = prepare_fx(module, _configuration(method, granularity), (torch.zeros(shape),))
    return prepared


def _convert(prepared: torch.fx.GraphModule, qparams: Mapping[str, tuple[float, int]]) -> torch.fx.GraphModule:
    from torch.ao.quantization import FixedQParamsObserver
    from torch.ao.quantization.quantize_fx import convert_fx

    torch_observers.fix(prepared, torch_observers.observers(prepared, _is_fixed), qparams, FixedQParamsObserver)
    converted: torch.fx.GraphModule = convert_fx(prepared)
    return converted


def _rebuild(artifact: Path) -> tuple[torch.fx.GraphModule, tuple[int, ...], int | None]:
    """(module, shape of one input, fixed batch size or None) of a float or quantized artifact."""
    torch_runtime.require(str(artifact), BACKEND.missing())
    file = TorchFile.read(artifact, "float", "fx")
    proto = file.model(str(artifact))
    batch = torch_runtime.batch_of(proto)
    if file.kind == "float":
        dims = torch_runtime.entry(proto).type.tensor_type.shape.dim
        return file.float_module(str(artifact)), tuple(each.dim_value or 1 for each in dims), batch
    try:
        shape = tuple(int(each) for each in file.settings["shape"].split(","))
        with torch_runtime.running(1, ENGINE), torch_runtime.deprecations():
            module = graph_module(proto, str(artifact), absorb_pads=True)
            prepared = _prepare(module, "minmax", file.settings["granularity"], shape)
            converted = _convert(prepared, file.qparams)
            load_state(converted, file.state, str(artifact))
    except (KeyError, ValueError, RuntimeError) as error:
        raise BadModel(f"{artifact}: cannot be rebuilt ({first_line(error)})") from error
    return converted, shape, batch


BACKEND = Torch()
