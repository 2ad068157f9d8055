"""The census of a torch.fx graph: what of it takes quantized tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from operator import getitem
from typing import TYPE_CHECKING, Any

from ptq.backends.protocol import COUNTED, Census
from ptq.backends.torch.plain import Node

if TYPE_CHECKING:
    import torch

_CLASSES = {
    **{f"{name}{rank}d": "Conv" for name in ("Conv", "ConvReLU") for rank in (1, 2, 3)},
    **{f"ConvTranspose{rank}d": "ConvTranspose" for rank in (1, 2, 3)},
    **{f"AvgPool{rank}d": "AveragePool" for rank in (1, 2, 3)},
    **{f"MaxPool{rank}d": "MaxPool" for rank in (1, 2, 3)},
    **dict.fromkeys(("Linear", "LinearReLU", "Gemm"), "Gemm"),
    **dict.fromkeys(("add", "add_relu", "add_"), "Add"),
    **dict.fromkeys(("GlobalAveragePool", "GlobalAveragePoolWithKnownInputShape"), "GlobalAveragePool"),
    "matmul": "MatMul",
    "MatMul": "MatMul",
}
"""Compute by torch's class or function name -> ONNX's operator."""

_CONVERT = {"quantize_per_tensor", "quantize_per_channel", "dequantize", "DeQuantize", "Quantize"}

_MOVERS = {
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Concat", "Split", "Identity"),
    *("Expand", "Pad", "Shape", "Constant"),
}
"""ONNX's operators that move data and compute nothing."""


class Tally:
    """Counts the nodes of one graph; `nodes` says what those that came from an ONNX node are there."""

    def __init__(self, graph: torch.fx.Graph, nodes: Mapping[str, Node]) -> None:
        self.graph, self.nodes = graph, nodes
        self.integer: Counter[str] = Counter()
        self.floating: Counter[str] = Counter()
        self.left: list[str] = []
        self.converts: set[str] = set()

    def integers(self, operator: str) -> None:
        self.integer[operator] += operator in COUNTED

    def floats(self, node: torch.fx.Node, operator: str | None) -> None:
        if operator in COUNTED:
            self.floating[str(operator)] += 1
            self.left.append(shown(node, self.nodes))

    def census(self, weight_bytes: Mapping[str, int], simulated: str | None = None) -> Census:
        found = stray(self.graph, self.converts, self._moves)
        return Census(dict(+self.integer), dict(self.floating), found, dict(weight_bytes), tuple(self.left), simulated)

    def _moves(self, node: torch.fx.Node) -> bool:
        path = path_of(node, self.nodes)
        return node.target is getitem or (path is not None and self.nodes[path].op_type in _MOVERS)


def shown(node: torch.fx.Node, nodes: Mapping[str, Node]) -> str:
    """What to call a node of torch's: the file's name of the ONNX node it came from, else torch's own."""
    path = path_of(node, nodes)
    return str(node.name) if path is None else nodes[path].name


def path_of(node: torch.fx.Node, known: Mapping[str, Any]) -> str | None:
    """The submodule a traced node came from: the innermost that is among `known`."""
    if node.op == "call_module" and str(node.target) in known:
        return str(node.target)
    for path, _ in reversed((node.meta.get("nn_module_stack") or {}).values()):
        if path in known:
            return str(path)
    return None


def parts(module: torch.nn.Module, nodes: Mapping[str, Node]) -> Iterator[tuple[str, str, str]]:
    """(name, qualified type, settings as torch prints them) of every submodule without children."""
    import torch

    for path, inner in module.named_modules():
        if path and type(inner) is not torch.nn.Module and not any(True for _ in inner.children()):
            first, _, rest = path.partition(".")
            name = ".".join((nodes[first].name, *([rest] if rest else []))) if first in nodes else path
            yield name, f"{type(inner).__module__}.{type(inner).__name__}", inner.extra_repr()


def census(module: torch.fx.GraphModule, nodes: Mapping[str, Node], example: tuple[Any, ...] = ()) -> Census:
    """The census of a graph of modules, by running `example`: integer is what takes quantized tensors.

    Without an example nothing is.
    """
    import torch

    tally = Tally(module.graph, nodes)

    def count(node: torch.fx.Node, quantized: bool) -> None:
        kind = _kind(node, module)
        operator = _CLASSES.get(kind)
        if kind == "mean" and (path := path_of(node, nodes)) is not None:
            operator = nodes[path].op_type
        if kind in _CONVERT:
            tally.converts.add(node.name)
        elif quantized and operator is not None:
            tally.integers(operator)
        elif not quantized:
            tally.floats(node, operator)

    class Recorder(torch.fx.Interpreter):  # type: ignore[misc]
        """Looks at the tensors that reach each node."""

        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            if n.op.startswith("call"):
                given = [self.env[source] for source in n.all_input_nodes]
                count(n, any(isinstance(value, torch.Tensor) and value.is_quantized for value in given))
            return result

    if example:
        Recorder(module).run(*example)
    else:
        for node in module.graph.nodes:
            if node.op.startswith("call"):
                count(node, False)
    return tally.census(weight_bytes(module.state_dict().values()))


def stray(graph: torch.fx.Graph, converts: set[str], moves: Callable[[torch.fx.Node], bool]) -> int:
    """How many nodes of `converts` (quantize and dequantize) stand between two that compute.

    Those at the model's own ends, and on constants, have to be: only data movement is between them and an end.
    """

    def passes(node: torch.fx.Node) -> bool:
        return node.op.startswith("call") and node.name not in converts and moves(node)

    def begins(node: torch.fx.Node) -> bool:
        return all(
            source.op in ("placeholder", "get_attr") or (passes(source) and begins(source))
            for source in node.all_input_nodes
        )

    def ends(node: torch.fx.Node) -> bool:
        return all(user.op == "output" or (passes(user) and ends(user)) for user in node.users)

    return sum(node.name in converts and not begins(node) and not ends(node) for node in graph.nodes)


def weight_bytes(values: Any) -> dict[str, int]:
    """Bytes of the tensors of two or more dimensions, by numpy's name of the stored element type."""
    import torch

    found: Counter[str] = Counter()
    for value in values:
        for tensor in value if isinstance(value, tuple | list) else (value,):
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
