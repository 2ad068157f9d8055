"""The census of a torch.fx graph of modules: what of it takes quantized tensors."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ptq.backends.protocol import Census

if TYPE_CHECKING:
    import torch

_COMPUTE = {
    "Conv1d": "Conv", "Conv2d": "Conv", "Conv3d": "Conv", "ConvReLU1d": "Conv", "ConvReLU2d": "Conv",
    "GlobalAveragePool": "GlobalAveragePool",
    "ConvReLU3d": "Conv", "ConvTranspose2d": "ConvTranspose", "Linear": "Gemm", "LinearReLU": "Gemm",
    "add": "Add", "add_relu": "Add", "sub": "Sub", "mul": "Mul", "mul_relu": "Mul", "div": "Div", "truediv": "Div",
    "matmul": "MatMul", "MatMul": "MatMul", "cat": "Concat", "Concat": "Concat", "ReLU": "Relu", "relu": "Relu",
    "LeakyReLU": "LeakyRelu",
    "Sigmoid": "Sigmoid", "sigmoid": "Sigmoid", "Hardswish": "HardSwish", "SiLU": "Silu", "Softmax": "Softmax",
    "softmax": "Softmax", "AvgPool2d": "AveragePool", "AdaptiveAvgPool2d": "GlobalAveragePool",
    "MaxPool2d": "MaxPool", "max_pool2d": "MaxPool", "mean": "ReduceMean", "BatchNorm2d": "BatchNormalization",
}  # fmt: skip
"""Compute by torch's class or function name -> ONNX's operator; what is not here moves data."""


def named_modules(module: torch.nn.Module) -> list[tuple[str, str, str]]:
    """(name, qualified type, settings as torch prints them) of every submodule without children."""
    import torch

    return [
        (name, f"{type(each).__module__}.{type(each).__name__}", each.extra_repr())
        for name, each in module.named_modules()
        if name and type(each) is not torch.nn.Module and not any(True for _ in each.children())
    ]


def census(module: torch.fx.GraphModule, shape: tuple[int, ...]) -> Census:
    """The census of a converted graph, by running one input of `shape`: integer is what takes quantized tensors."""
    import torch

    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    left: list[str] = []
    converts: set[str] = set()
    computes: set[str] = set()

    class Recorder(torch.fx.Interpreter):  # type: ignore[misc]
        """Looks at the tensors that reach each node."""

        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            if n.op in ("call_module", "call_function", "call_method"):
                given = [self.env[each] for each in n.all_input_nodes]
                quantized = any(isinstance(each, torch.Tensor) and each.is_quantized for each in given)
                kind = _kind(n, module)
                if kind in ("quantize_per_tensor", "quantize_per_channel", "dequantize", "DeQuantize", "Quantize"):
                    converts.add(n.name)
                elif (operator := _COMPUTE.get(kind)) is not None:
                    computes.add(n.name)
                    (integer if quantized else floating)[operator] += 1
                    if not quantized:
                        left.append(str(n.target) if n.op == "call_module" else n.name)
            return result

    Recorder(module).run(torch.zeros(shape))
    return Census(
        dict(integer), dict(floating), stray(module.graph, converts, computes), weight_bytes(module), tuple(left)
    )


def stray(graph: torch.fx.Graph, converts: set[str], computes: set[str]) -> int:
    """How many nodes of `converts` (quantize and dequantize) stand between two of `computes`.

    Those at the model's own ends, and on constants, have to be: only data movement is between them and an end.
    """

    def moves(node: torch.fx.Node) -> bool:
        return node.op.startswith("call") and node.name not in converts | computes

    def begins(node: torch.fx.Node) -> bool:
        return all(
            each.op in ("placeholder", "get_attr") or (moves(each) and begins(each)) for each in node.all_input_nodes
        )

    def ends(node: torch.fx.Node) -> bool:
        return all(each.op == "output" or (moves(each) and ends(each)) for each in node.users)

    return sum(each.name in converts and not begins(each) and not ends(each) for each in graph.nodes)


def weight_bytes(module: torch.nn.Module) -> dict[str, int]:
    """Bytes of the state's tensors of two or more dimensions, by numpy's name of the stored element type."""
    import torch

    found: Counter[str] = Counter()
    for each in module.state_dict().values():
        for tensor in each if isinstance(each, tuple | list) else (each,):
            if isinstance(tensor, torch.Tensor) and tensor.dim() > 1:
                stored = tensor.int_repr() if tensor.is_quantized else tensor
                found[str(stored.dtype).removeprefix("torch.")] += stored.numel() * stored.element_size()
    return dict(found)


def _kind(node: torch.fx.Node, module: torch.fx.GraphModule) -> str:
    if node.op == "call_module":
        computes = module.get_submodule(str(node.target))
        # A convolution behind its pad.
        if type(computes).__name__ == "Sequential":
            computes = list(computes.children())[-1]
        # onnx2torch has one class for all of Add, Sub, Mul, Div.
        kind = getattr(getattr(computes, "math_op_function", None), "__name__", type(computes).__name__)
        return str(kind).removeprefix("Onnx")
    target: Any = node.target
    return target if isinstance(target, str) else str(getattr(target, "__name__", target)).split(".")[0]
