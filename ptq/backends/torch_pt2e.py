"""PyTorch 2 export quantization: torchao's prepare_pt2e / convert_pt2e with its X86InductorQuantizer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
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

OWN = ("minmax", "histogram")
"""Methods whose ranges are chosen by torchao's own observers; those of every other are handed over by ptq."""

_UINT8 = "torchao: Unsupported quantization_spec QuantizationSpec(dtype=torch.uint8, ...) for weight"

_INTEGER = {"qconv": "Conv", "qlinear": "Gemm", "qadd": "Add"}
_FLOAT = {
    "conv1d": "Conv", "conv2d": "Conv", "convolution": "Conv", "linear": "Gemm", "addmm": "Gemm", "mm": "MatMul",
    "bmm": "MatMul", "matmul": "MatMul", "add": "Add", "add_": "Add", "sub": "Sub", "mul": "Mul", "div": "Div",
    "relu": "Relu", "relu_": "Relu", "sigmoid": "Sigmoid", "silu": "Silu", "softmax": "Softmax",
    "_softmax": "Softmax", "avg_pool2d": "AveragePool", "mean": "ReduceMean", "max_pool2d": "MaxPool",
    "max_pool2d_with_indices": "MaxPool", "adaptive_avg_pool2d": "GlobalAveragePool", "cat": "Concat",
}  # fmt: skip
"""Compute by ATen's operator name -> ONNX's operator; what is in neither table moves data."""


class TorchPt2e:
    """ONNX -> onnx2torch -> torch.export -> prepare_pt2e -> convert_pt2e -> oneDNN's integer kernels, no compiler.

    dtype ``int8`` is uint8 activations with int8 weights, the pair the x86 quantizer has. Runs one sample at a time:
    the lowered graph is exported for one, and a prediction then cannot depend on its neighbours.
    """

    name = "torch_pt2e"

    def missing(self) -> str | None:
        return torch_runtime.absent("torch", "onnx2torch", "torchao")

    def versions(self) -> Mapping[str, str]:
        return torch_runtime.installed("torch", "torchao", "onnx2torch", "onnx", "numpy")

    def cases(self, workload: str) -> Iterable[Case]:
        yield Case(workload, self.name, FP32)
        for method in (*OWN, *(each for each in methods() if each not in OWN)):
            for granularity in ("tensor", "channel"):
                yield Case(workload, self.name, "int8", method, granularity)
        yield Case(workload, self.name, "uint8", "minmax")

    def unsupported(self, case: Case) -> str | None:
        if corrects(case.method):
            return UNCORRECTED
        return _UINT8 if case.dtype == "uint8" else None

    def suffix(self, case: Case) -> str:
        return ".pt2e"

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration, out: Path) -> Mapping[str, str]:
        import onnx

        torch_runtime.require(case.id, self.missing())
        if (reason := self.unsupported(case)) is not None:
            raise Unsupported(f"{case.id}: {reason}")
        proto = onnx.load(model.prepared)
        module = graph_module(proto, model.prepared.name, absorb_pads=not case.is_float)
        if case.is_float:
            TorchFile("float", {}, proto.SerializeToString(), module.state_dict()).save(out)
            return {}
        said: list[str] = []
        with torch_runtime.running(1), torch_runtime.deprecations(said):
            tensors = torch_observers.tensor_names(module, torch_runtime.entry(proto).name)
            batch = torch_runtime.batch_of(proto)
            shape = (batch or 2, *next(iter(calibration.samples.batches(1))).shape[1:])
            prepared = _prepare(module, shape, batch is None, case.method)
            watched = torch_observers.observers(prepared, _is_weight)
            handed = case.method if case.method in methods() and case.method not in OWN else None
            qparams, how = torch_observers.choose(prepared, watched, handed, calibration, tensors, batch)
            converted = _convert(prepared, case.granularity, qparams)
            lowered, simulated = _lower(converted, (batch or 1, *shape[1:]))
            require_int8(case, _census(lowered, simulated))
        settings = {
            "granularity": case.granularity,
            "shape": ",".join(map(str, shape)),
            "batch": "varies" if batch is None else "fixed",
        }
        TorchFile("pt2e", settings, proto.SerializeToString(), _state(converted), qparams).save(out)
        notes = {
            "activations": "uint8 per tensor",
            "weights": f"int8 per {case.granularity}",
            "quantizer": "X86InductorQuantizer",
            "execution": "oneDNN integer kernels" if simulated is None else f"simulated: {simulated}",
            **how,
        }
        return {**notes, "deprecated": "; ".join(said)} if said else notes

    def load(self, artifact: Path, threads: int = 1) -> Predictor:
        module, size, _ = _rebuild(artifact)
        return torch_runtime.predictor(module, size, threads)

    def input_shape(self, artifact: Path) -> tuple[int | None, ...]:
        torch_runtime.require(str(artifact), self.missing())
        return torch_runtime.shape_of(TorchFile.read(artifact, "float", "pt2e").model(str(artifact)))

    def census(self, artifact: Path) -> Census:
        module, _, simulated = _rebuild(artifact)
        return _census(module, simulated)

    def inspect(self, artifact: Path) -> list[tuple[str, str, str]]:
        """(name, operator, arguments) of every node of the graph that runs, in order."""
        module, _, _ = _rebuild(artifact)
        return [
            (each.name, str(each.target), ", ".join(map(str, each.args)))
            for each in module.graph.nodes
            if each.op.startswith("call")
        ]


@contextmanager
def _torchao() -> Iterator[None]:
    """Import torchao without the line torch logs about one of its enums."""
    logger = logging.getLogger("torch.utils._pytree")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401

        yield
    finally:
        logger.setLevel(level)


def _configuration(method: str) -> Any:
    """uint8 activations and symmetric int8 weights per channel; `_convert` makes the weights' ranges equal for
    per tensor, since the integer kernels take one scale a channel."""
    import torch
    from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantizer import QuantizationSpec
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import QuantizationConfig

    observer = HistogramObserver if method == "histogram" else MinMaxObserver
    activation = QuantizationSpec(
        dtype=torch.uint8,
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_tensor_affine,
        is_dynamic=False,
        observer_or_fake_quant_ctr=observer.with_args(eps=2**-12),
    )
    weight = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        is_dynamic=False,
        observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=2**-12),
    )
    return QuantizationConfig(activation, activation, weight, None, False)


def _prepare(module: torch.fx.GraphModule, shape: tuple[int, ...], varies: bool, method: str) -> torch.fx.GraphModule:
    """The exported graph with observers. Exported as it is, not traced first: nodes then know their submodules."""
    with _torchao():
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

        quantizer = X86InductorQuantizer()
        quantizer.set_global(_configuration(method))
        prepared: torch.fx.GraphModule = prepare_pt2e(_export(module, shape, varies), quantizer)
    return prepared


def _export(module: torch.fx.GraphModule, shape: tuple[int, ...], varies: bool) -> torch.fx.GraphModule:
    import torch

    dynamic = ({0: torch.export.Dim("n")},) if varies else None
    exported = torch.export.export(module, (torch.zeros(shape),), dynamic_shapes=dynamic, strict=False)
    graph: torch.fx.GraphModule = exported.module()
    return graph


def _convert(
    prepared: torch.fx.GraphModule, granularity: str, qparams: Mapping[str, tuple[float, int]]
) -> torch.fx.GraphModule:
    import torch
    from torchao.quantization.pt2e import FixedQParamsObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    if granularity == "tensor":
        for each in prepared.modules():
            if _is_weight(each):
                each.min_val.fill_(each.min_val.min())
                each.max_val.fill_(each.max_val.max())
    fixed = partial(
        FixedQParamsObserver, dtype=torch.uint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=255
    )
    torch_observers.fix(prepared, torch_observers.observers(prepared, _is_weight), qparams, fixed)
    converted: torch.fx.GraphModule = convert_pt2e(prepared)
    return converted


def _lower(converted: torch.fx.GraphModule, shape: tuple[int, ...]) -> tuple[torch.fx.GraphModule, str | None]:
    """The graph in oneDNN's integer kernels and None; or as it is, and why it is only simulated."""
    import torch

    try:
        from torchao.quantization.pt2e.lowering import lower_pt2e_quantized_to_x86

        return lower_pt2e_quantized_to_x86(converted, (torch.zeros(shape),)), None
    # Whatever its passes or this machine's kernels raise: the quantized model itself is sound.
    except Exception as error:
        return converted, f"float kernels between q/dq, not lowered ({first_line(error)})"


def _state(converted: torch.fx.GraphModule) -> dict[str, Any]:
    """The tensors the graph reads: convert_pt2e leaves the float weights behind, unread."""
    read = {str(each.target) for each in converted.graph.nodes if each.op == "get_attr"}
    return {name: each for name, each in converted.state_dict().items() if name in read}


def _census(module: torch.fx.GraphModule, simulated: str | None) -> Census:
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    left: list[str] = []
    converts: set[str] = set()
    computes: set[str] = set()
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        library, _, rest = str(node.target).partition(".")
        operator, _, overload = rest.partition(".")
        if library == "onednn" and not operator.endswith("prepack"):
            for prefix, name in _INTEGER.items():
                integer[name] += operator.startswith(prefix)
            computes.add(node.name)
            # A second operand is the sum of a residual, done in the same kernel.
            integer["Add"] += overload.startswith("binary")
        elif library == "quantized_decomposed":
            converts.add(node.name)
        elif library == "aten" and (known := _FLOAT.get(operator)) is not None:
            floating[known] += 1
            computes.add(node.name)
            left.append(node.name)
    stored: Counter[str] = Counter()
    for each in module.graph.nodes:
        if each.op == "get_attr":
            tensor = _tensor(module, str(each.target))
            if tensor.dim() > 1:
                stored[str(tensor.dtype).removeprefix("torch.")] += tensor.numel() * tensor.element_size()
    found = torch_census.stray(module.graph, converts, computes)
    return Census(dict(+integer), dict(floating), found, dict(stored), tuple(left), simulated)


def _tensor(module: torch.fx.GraphModule, path: str) -> torch.Tensor:
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name)
    result: torch.Tensor = value
    return result


def _is_weight(observer: Any) -> bool:
    return type(observer).__name__ == "PerChannelMinMaxObserver"


def _rebuild(artifact: Path) -> tuple[torch.fx.GraphModule, int | None, str | None]:
    """(module, samples it takes at a time or None for any, why it is simulated or None)."""
    torch_runtime.require(str(artifact), BACKEND.missing())
    file = TorchFile.read(artifact, "float", "pt2e")
    proto = file.model(str(artifact))
    import torch

    if file.kind == "float":
        batch = torch_runtime.batch_of(proto)
        dims = torch_runtime.entry(proto).type.tensor_type.shape.dim
        shape = (batch or 2, *(each.dim_value or 1 for each in dims[1:]))
        with torch_runtime.running(1):
            return _export(file.float_module(str(artifact)), shape, batch is None), batch, None
    try:
        shape = tuple(int(each) for each in file.settings["shape"].split(","))
        varies = file.settings["batch"] == "varies"
        size = 1 if varies else shape[0]
        module = graph_module(proto, str(artifact), absorb_pads=True)
        with torch_runtime.running(1), torch_runtime.deprecations():
            prepared = _prepare(module, shape, varies, "minmax")
            prepared(torch.zeros(shape))
            converted = _convert(prepared, file.settings["granularity"], file.qparams)
            if (wrong := set(_state(converted)) ^ set(file.state)) != set():
                raise BadModel(f"{artifact}: its state does not fit its graph ({sorted(wrong)[0]})")
            load_state(converted, {**converted.state_dict(), **file.state}, str(artifact))
            lowered, simulated = _lower(converted, (size, *shape[1:]))
    except (KeyError, ValueError, RuntimeError) as error:
        raise BadModel(f"{artifact}: cannot be rebuilt ({first_line(error)})") from error
    return lowered, size, simulated


BACKEND = TorchPt2e()
