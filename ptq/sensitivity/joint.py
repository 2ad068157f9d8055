"""joint: one graph that holds a float model, its QDQ form, and every layer quantized alone; it gives errors as sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptq.models.graph import Graph, reads, subgraphs
from ptq.sensitivity.pairing import Pairing

ROUNDING, CLIPPING, WEIGHTS, COMPUTED, LOCAL, PROPAGATED = (
    "rounding", "clipping", "weights", "computed", "local", "propagated",
)  # fmt: skip
"""What is compared with the float model:

``rounding``    the float tensor itself, quantized and dequantized; ``clipping`` is the part of that beyond the range.
``weights``     a layer with its weights quantized and its inputs in float, before its output is quantized.
``computed``    a layer with weights and inputs quantized, the inputs from the float model, before its output is.
``local``       the same with its output quantized.
``propagated``  the tensor in the quantized model.
"""
TOTAL, SQUARES, SIZE, LOWEST, HIGHEST = "total", "squares", "size", "lowest", "highest"
"""Of a float tensor: by channel the sum of its values, that of their squares, and its extremes; how many values."""
_Q, _L = "q/", "l/"

Key = tuple[str, str]
"""What is summed up, and the float tensor it is of."""


@dataclass(frozen=True, eq=False)
class Joint:
    """The joint graph.

    `content` are the bytes of an ONNX model; `outputs` says which output carries a `Key`; `rows`, by name of a float
    node, the float tensor that the QDQ file's node makes, and the node's own output: another where a Relu was left out.
    `large`: whether to run one sample at a time; `fixed`: the model's own batch size.
    """

    content: bytes
    outputs: Mapping[Key, str]
    rows: Mapping[str, tuple[str, str]]
    large: bool
    fixed: int | None


class JointGraph:
    """Puts a `Joint` together."""

    def __init__(self, model: Any, artifact: Any, opset: int) -> None:
        import onnx

        self._opset = opset

        shaped = onnx.shape_inference.infer_shapes(model)
        self._floats = shaped.graph
        self._pairing = Pairing(Graph(shaped.graph), Graph(artifact.graph))
        self._info = {
            each.name: each.type.tensor_type
            for each in (*shaped.graph.value_info, *shaped.graph.input, *shaped.graph.output)
        }
        self._nodes: list[Any] = []
        self._held: dict[str, Any] = {}
        self._outputs: dict[Key, str] = {}
        self._local: dict[str, str] = {}

    def make(self, opset_imports: Iterable[Any], ir_version: int, large: bool, fixed: int | None) -> Joint:
        """The whole graph."""
        from onnx import TensorProto, helper

        self._nodes += list(self._floats.node)
        self._add_quantized()
        rows = self._add_layers()
        self._compare_propagated()
        self._add_signals()
        given = [each for each in self._floats.input if each.name not in self._pairing.floats.initializers]
        exits = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self._outputs.values()]
        constants = [*self._floats.initializer, *self._held.values()]
        graph = helper.make_graph(self._nodes, "joint", given, exits, constants)
        made = helper.make_model(graph, opset_imports=list(opset_imports), ir_version=ir_version)
        return Joint(made.SerializeToString(), dict(self._outputs), rows, large, fixed)

    def _add_quantized(self) -> None:
        """The QDQ file, under names of its own."""
        inputs = {each.name for each in self._pairing.floats.inputs}
        for name, each in self._pairing.quantized.initializers.items():
            copy = type(each)()
            copy.CopyFrom(each)
            copy.name = _Q + name
            self._held[copy.name] = copy
        for node in self._pairing.quantized.nodes:
            names = {name: name if name in inputs or not name else _Q + name for name in (*reads(node), *node.output)}
            self._nodes.append(_renamed(node, names, _Q))

    def _add_layers(self) -> dict[str, tuple[str, str]]:
        """Every compute node alone, its inputs from the float model; the rows."""
        pairing, rows = self._pairing, {}
        for node in pairing.compute:
            output = node.output[0]
            target, own = pairing.names.get(output), pairing.float_node(node)
            inputs = [each for each in node.input if each and each not in pairing.constants]
            known = all(pairing.names.get(each) in self._info for each in inputs)
            if target is None or own is None or not self._is_float(target) or not inputs or not known:
                continue
            if any(True for _ in subgraphs(node)) or len(node.output) > 1:
                continue
            weighted = [each for each in node.input if each in pairing.constants and each in pairing.quantized.producer]
            quantized = [each for each in inputs if pairing.raw(each) != each]
            quantizer = pairing.quantizer(output)
            rows[own.name or own.output[0]] = (target, own.output[0])
            floats = {each: pairing.names[each] for each in inputs}
            alone = {each: self._quantized_alone(each) for each in inputs}
            constant = {each: _Q + each for each in node.input if each in pairing.constants}
            if weighted:
                made = self._copy(node, {**floats, **constant}, f"{_L}w/{output}")
                self._compare(WEIGHTS, own.output[0], made)
            if weighted or quantized:
                raw = self._copy(node, {**alone, **constant}, f"{_L}{output}")
                self._compare(COMPUTED, own.output[0], raw)
            else:
                raw = own.output[0]
            if quantizer is not None:
                self._compare(LOCAL, target, self._through(raw, quantizer, f"{_L}{output}/"))
            elif raw != target:
                self._compare(LOCAL, target, raw)
        return rows

    def _compare_propagated(self) -> None:
        """Every tensor in the quantized model, as its readers see it; and what quantizing it alone costs."""
        pairing = self._pairing
        raws = [*(each.name for each in pairing.quantized.inputs), *(node.output[0] for node in pairing.compute)]
        inputs = {each.name for each in pairing.floats.inputs}
        for raw in raws:
            target, quantizer = pairing.names.get(raw), pairing.quantizer(raw)
            if target is None or not self._is_float(target):
                continue
            if raw not in inputs:
                self._compare(PROPAGATED, target, _Q + (raw if quantizer is None else quantizer[1].output[0]))
            if quantizer is not None:
                alone = self._quantized_alone(quantizer[1].output[0])
                self._compare(ROUNDING, target, alone)
                self._clip(target, quantizer)

    def _add_signals(self) -> None:
        for tensor in {name: None for _, name in self._outputs}:
            square = self._op("Mul", [tensor, tensor])
            self._sum(TOTAL, tensor, tensor)
            self._sum(SQUARES, tensor, square)
            counted = self._op("Size", [tensor])
            self._outputs[SIZE, tensor] = self._op("Cast", [counted], to=1)
            for what, kind in ((LOWEST, "ReduceMin"), (HIGHEST, "ReduceMax")):
                self._outputs[what, tensor] = self._reduced(kind, tensor, tensor)

    def _quantized_alone(self, tensor: str) -> str:
        """A float tensor through the quantizer that the QDQ file has for it."""
        pairing = self._pairing
        raw = pairing.raw(tensor)
        target = pairing.names[tensor]
        quantizer = None if raw == tensor else pairing.quantizer(raw)
        if quantizer is None:
            return target
        if target not in self._local:
            self._local[target] = self._through(target, quantizer, f"{_L}alone/{target}/")
        return self._local[target]

    def _clip(self, tensor: str, quantizer: tuple[Any, Any]) -> None:
        """The error of what lies beyond the quantizer's range; of a quantizer with one scale."""
        held_to = ends(self._pairing.quantized, quantizer[0])
        if held_to is not None:
            low, high = map(self._constant, held_to)
            held = self._op("Min", [self._op("Max", [tensor, low]), high])
            self._compare(CLIPPING, tensor, held)

    def _through(self, tensor: str, quantizer: tuple[Any, Any], prefix: str) -> str:
        first, second = quantizer
        middle = self._copy(first, {first.input[0]: tensor, **_prefixed(first.input[1:])}, f"{prefix}integer")
        return self._copy(second, {second.input[0]: middle, **_prefixed(second.input[1:])}, f"{prefix}real")

    def _copy(self, node: Any, names: Mapping[str, str], output: str) -> str:
        self._nodes.append(_renamed(node, {**names, "": "", node.output[0]: output}, f"{len(self._nodes)}/"))
        return output

    def _compare(self, what: str, tensor: str, other: str) -> None:
        if (what, tensor) in self._outputs or not self._is_float(tensor):
            return
        error = self._op("Sub", [tensor, other])
        self._sum(what, tensor, self._op("Mul", [error, error]))

    def _sum(self, what: str, tensor: str, values: str) -> None:
        self._outputs[what, tensor] = self._reduced("ReduceSum", tensor, values)

    def _reduced(self, kind: str, tensor: str, values: str) -> str:
        """`values`, of the shape of `tensor`, reduced over all but the channels, which stay where there are any."""
        shape = self._info[tensor]
        channels = channel_axis(shape)
        if channels is None:
            return self._op(kind, [values], keepdims=0)
        others = [axis for axis in range(len(shape.shape.dim)) if axis != channels]
        if kind == "ReduceSum" or self._opset >= 18:  # the operator sets in which axes became an input
            return self._op(kind, [values, self._constant(np.array(others, np.int64))], keepdims=0)
        return self._op(kind, [values], keepdims=0, axes=others)

    def _op(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        output = f"ptq/{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _constant(self, value: Any) -> str:
        from onnx import numpy_helper

        with np.errstate(over="ignore"):  # a scale that no float32 holds is infinite there, as in the model
            array = np.asarray(value, np.float32 if isinstance(value, float) else None)
        name = f"ptq/constant/{array.dtype}/{array.tolist()}"
        self._held.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def _is_float(self, tensor: str) -> bool:
        from onnx import TensorProto

        return tensor in self._info and self._info[tensor].elem_type == TensorProto.FLOAT


def channel_axis(kind: Any) -> int | None:
    """The axis along which a tensor's slices may differ in scale: channels. None where there is but one.

    Axis 1 of four dimensions and more, or the last when that alone is small; of three, the smaller that is fixed: a
    detector's answers have fewer columns than places; of two, the last.
    """
    if not kind.HasField("shape"):
        return None
    sizes = [each.dim_value for each in kind.shape.dim]
    if len(sizes) < 2:
        return None
    if len(sizes) == 2:
        return 1
    if len(sizes) == 3:
        fixed = [(sizes[axis], axis) for axis in (1, 2) if sizes[axis]]
        return min(fixed)[1] if fixed else 2
    return len(sizes) - 1 if 0 < sizes[-1] <= 4 < sizes[1] else 1


def ends(graph: Graph, quantize: Any) -> tuple[float, float] | None:
    """The lowest and the highest value a QuantizeLinear of one scale keeps; None where scale or zero point vary."""
    from onnx import numpy_helper

    held = [graph.initializers.get(each) for each in quantize.input[1:]]
    if not held or any(each is None for each in held):
        return None
    scale = numpy_helper.to_array(held[0])
    if scale.size != 1:
        return None
    zero = numpy_helper.to_array(held[1]) if len(held) > 1 else np.zeros((), np.uint8)
    try:
        kind = np.iinfo(zero.dtype)
    except ValueError:  # four bits, or float8
        return None
    middle = float(zero.reshape(-1)[0])
    return float(scale.reshape(-1)[0]) * (kind.min - middle), float(scale.reshape(-1)[0]) * (kind.max - middle)


def _prefixed(names: Iterable[str]) -> dict[str, str]:
    return {name: _Q + name for name in names}


def _renamed(node: Any, names: Mapping[str, str], prefix: str) -> Any:
    """A copy of a node with other tensors, those that its inner graphs take from outside among them."""
    copy = type(node)()
    copy.CopyFrom(node)
    copy.name = prefix + (node.name or node.output[0])
    for field in (copy.input, copy.output):
        field[:] = [names.get(each, each) for each in field]
    for graph in subgraphs(copy):
        for inner in graph.node:
            inner.CopyFrom(_renamed(inner, {**{each: each for each in inner.output}, **names}, ""))
        for value in graph.output:
            value.name = names.get(value.name, value.name)
    return copy
