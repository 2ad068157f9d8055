"""PyTorch 2 export quantization: torchao's prepare_pt2e / convert_pt2e with its X86InductorQuantizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ptq.backends.protocol import Census
from ptq.backends.torch.backend import Runnable, TorchBackend
from ptq.backends.torch.census import Tally, census, parts, path_of, shown, weight_bytes
from ptq.backends.torch.file import Qparams
from ptq.backends.torch.from_onnx import TorchGraph
from ptq.backends.torch.observers import fix, observers
from ptq.cases import Case
from ptq.data.signature import Signature
from ptq.errors import one_line

if TYPE_CHECKING:
    import torch

_INTEGER = {"qconv": "Conv", "qlinear": "Gemm", "qadd": "Add"}
_FLOAT = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), "Conv"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "ConvTranspose"),
    **dict.fromkeys(("linear", "addmm"), "Gemm"),
    **dict.fromkeys(("mm", "bmm", "matmul"), "MatMul"),
    **dict.fromkeys(("add", "add_"), "Add"),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), "AveragePool"),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices"), "MaxPool"),
}
"""Compute by the start of oneDNN's, or by ATen's, name of the operator -> ONNX's operator."""


class TorchPt2e(TorchBackend):
    """ONNX -> onnx2torch -> torch.export -> prepare_pt2e -> convert_pt2e -> oneDNN's integer kernels, no compiler.

    u8s8 is the pair the x86 quantizer has. Runs one sample at a time where the batch varies: the lowered graph is
    exported for one, and a prediction then cannot depend on its neighbours.
    """

    name = "torch_pt2e"
    kind = "pt2e"
    ending = ".pt2e"
    no_uint8 = "torchao: Unsupported quantization_spec QuantizationSpec(dtype=torch.uint8, ...) for weight"
    packages = ("torchao",)

    def prepare(
        self, graph: TorchGraph, method: str, granularity: str, example: tuple[Any, ...]
    ) -> torch.fx.GraphModule:
        """Exported as it is, not traced first: nodes then know their submodules."""
        with _torchao():
            from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
            from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

            quantizer = X86InductorQuantizer()
            quantizer.set_global(self.configuration(method))
            exported = _export(graph.module, graph.signature, example)
            prepared: torch.fx.GraphModule = prepare_pt2e(exported, quantizer)
        return prepared

    def configuration(self, method: str) -> Any:
        """uint8 activations and symmetric int8 weights per channel; `convert` makes the weights' ranges equal for
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

    def keeps(self, observer: Any) -> bool:
        return type(observer).__name__ == "PerChannelMinMaxObserver"

    def convert(self, prepared: torch.fx.GraphModule, granularity: str, qparams: Qparams) -> torch.fx.GraphModule:
        import torch
        from torchao.quantization.pt2e import FixedQParamsObserver
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        if granularity == "tensor":
            for module in prepared.modules():
                if self.keeps(module):
                    module.min_val.fill_(module.min_val.min())
                    module.max_val.fill_(module.max_val.max())
        fixed = partial(
            FixedQParamsObserver, dtype=torch.uint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=255
        )
        fix(prepared, observers(prepared, self.keeps), qparams, fixed)
        converted: torch.fx.GraphModule = convert_pt2e(prepared)
        return converted

    def runnable(self, converted: torch.fx.GraphModule, graph: TorchGraph, example: tuple[Any, ...]) -> Runnable:
        """In oneDNN's integer kernels; or as it is, and why it is only simulated."""
        import torch

        size = graph.signature.batch or 1
        few = tuple(value[:size] for value in example)
        module, simulated = converted, None
        try:
            from torchao.quantization.pt2e.lowering import lower_pt2e_quantized_to_x86

            lowered: torch.fx.GraphModule = lower_pt2e_quantized_to_x86(converted, few)
            for node in lowered.graph.nodes:
                # Exported for contiguous tensors; an integer convolution gives channels last, which have no such view.
                if node.target is torch.ops.aten.view.default:
                    node.target = torch.ops.aten.reshape.default
            lowered.recompile()
            lowered(*few)
            module = lowered
        # Whatever its passes or this machine's kernels raise: the quantized model itself is sound.
        except Exception as error:
            simulated = f"float kernels between q/dq, not lowered ({one_line(error)})"
        return Runnable(module, graph.signature, graph.nodes, size, few, simulated)

    def state(self, converted: torch.fx.GraphModule) -> dict[str, Any]:
        """The tensors the graph reads: convert_pt2e leaves the float weights behind, unread."""
        read = {str(node.target) for node in converted.graph.nodes if node.op == "get_attr"}
        return {name: value for name, value in converted.state_dict().items() if name in read}

    def count(self, runnable: Runnable) -> Census:
        if not runnable.example:
            return census(runnable.module, runnable.nodes)
        module, nodes = runnable.module, runnable.nodes
        tally = Tally(module.graph, nodes)
        for node in module.graph.nodes:
            if node.op != "call_function":
                continue
            library, _, rest = str(node.target).partition(".")
            operator, _, overload = rest.partition(".")
            if library == "onednn" and not operator.endswith("prepack"):
                for prefix, name in _INTEGER.items():
                    tally.integer[name] += operator.startswith(prefix)
                # A second operand is the sum of a residual, done in the same kernel.
                tally.integer["Add"] += overload.startswith("binary")
            elif library == "quantized_decomposed":
                tally.converts.add(node.name)
            elif library == "aten":
                path = path_of(node, nodes)
                # What averages a whole map is a mean here.
                pools = path is not None and operator in ("mean", "adaptive_avg_pool2d")
                tally.floats(node, nodes[path].op_type if path is not None and pools else _FLOAT.get(operator))
        read = (str(node.target) for node in module.graph.nodes if node.op == "get_attr")
        return tally.census(weight_bytes(_tensor(module, path) for path in read), runnable.simulated)

    def notes(self, case: Case, runnable: Runnable) -> dict[str, str]:
        simulated = runnable.simulated
        return {
            "activations": "uint8 per tensor",
            "weights": f"int8 per {case.granularity}",
            "quantizer": "X86InductorQuantizer",
            "execution": "oneDNN integer kernels" if simulated is None else f"simulated: {simulated}",
        }

    def parts(self, runnable: Runnable) -> Iterator[tuple[str, str, str]]:
        """(name, operator, arguments) of every node that runs, in order; of the float form, its modules."""
        if not runnable.example:
            yield from parts(runnable.module, runnable.nodes)
            return
        for node in runnable.module.graph.nodes:
            if node.op.startswith("call"):
                yield shown(node, runnable.nodes), str(node.target), ", ".join(map(str, node.args))


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


def _export(module: torch.fx.GraphModule, signature: Signature, example: tuple[Any, ...]) -> torch.fx.GraphModule:
    """The exported graph; every dimension that varies does so in it."""
    import torch

    varies = torch.export.Dim.DYNAMIC
    shapes = tuple(
        {axis: varies for axis, size in enumerate(tensor.shape) if size is None} for tensor in signature.inputs
    )
    exported = torch.export.export(module, example, dynamic_shapes=shapes, strict=False)
    graph: torch.fx.GraphModule = exported.module()
    return graph


def _tensor(module: torch.fx.GraphModule, path: str) -> torch.Tensor:
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name)
    result: torch.Tensor = value
    return result


BACKEND = TorchPt2e()
