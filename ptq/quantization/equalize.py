"""equalize: channels of an ONNX model brought to one size, so that one scale serves them all.

Scaling a channel of what a layer makes by 1 / s, and what the next layer multiplies it with by s, changes nothing in
float. Between them may be what hands a positive scale on: Relu, pooling, and Add, whose operands and sum are then
scaled alike, a residual stream as a whole. A Clip at 6 hands it on for channels that cannot reach 6. What a channel
never falls below is not worth levels either: it is taken off, and put into the bias of what reads it.

Source: Nagel et al. (2019), Data-Free Quantization Through Weight Equalization and Bias Correction, arXiv:1906.04721,
sections 4.1 and 4.1.2. There s makes the weights of both layers equally large; here, as in Xiao et al. (2022),
SmoothQuant, arXiv:2211.10438, the channel and the weights that read it: a weight as large as the others is of no use
where the channel is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.calibration.layers import Layer, layers
from ptq.calibration.observe import observe
from ptq.files import write_bytes
from ptq.models.graph import Graph, attributes
from ptq.models.onnx_file import load, serialized
from ptq.quantization.calibration import Calibration
from ptq.quantization.method import SAMPLES, Transform

Doubles = npt.NDArray[np.float64]
Bounds = Mapping[str, tuple[Doubles, Doubles]]
"""By tensor, the smallest and the largest value of every channel."""

LARGEST = 1000.0
"""The most a channel is scaled by: beyond, it is as good as never used."""
_PASS = {"Relu", "LeakyRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}
"""Operators that give s * f(x) for s * x, channel by channel, for any s above 0."""
_FLAT = {"Flatten", "Reshape", "Squeeze"}
"""Operators that leave a channel a value where they follow a global pool."""
_GLOBAL = {"GlobalAveragePool", "GlobalMaxPool"}


def equalize(model: Path, out: Path, calibration: Calibration) -> Mapping[str, str]:
    """A `ptq.quantization.method.Transform.rewrite`: every group of channels scaled, then relieved of its bias.

    The model keeps its tensors' names, and its function to float32's rounding, for any input.
    """
    proto = load(model)
    found = list(groups(proto))
    seen = channel_bounds(model, calibration, {tensor for group in found for tensor in group.tensors})
    constants = _Constants(proto)
    scales = [group.scales(seen) for group in found]  # all of the model as it is
    moved = sum(_absorb(group, constants, seen) for group in found)
    for group, scale in zip(found, scales, strict=True):
        for maker in group.makers:
            constants.scale_outputs(maker, 1 / scale)
        for taker in group.takers:
            constants.scale_inputs(taker, scale)
    constants.put_back()
    write_bytes(out, serialized(proto, model))
    scaled = sum(int((scale != 1).sum()) for scale in scales)
    return {"equalized": f"{scaled} channels scaled, {moved} moved, of {len(found)} groups"}


EQUALIZE = Transform("equalize", equalize, frozenset({SAMPLES}))


def channel_bounds(model: Path, calibration: Calibration, tensors: set[str]) -> Bounds:
    """What every channel, of dimension 1, of `tensors` spans over the calibration samples."""
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    for seen in observe(model, calibration.samples):
        for name in tensors & seen.keys():
            others = (0, *range(2, seen[name].ndim))
            least, most = seen[name].min(axis=others), seen[name].max(axis=others)
            low[name] = np.minimum(low.get(name, least), least)
            high[name] = np.maximum(high.get(name, most), most)
    return {name: (low[name].astype(np.float64), high[name].astype(np.float64)) for name in low}


@dataclass(eq=False)
class Group:
    """Channels that can be scaled as one: `makers` are layers whose outputs they are, `takers` those that read them.

    `tensors` are all in between; `reach`, by the tensor that a Clip at 0 and some limit reads, says how far up each
    channel can come, as a share of the limit. `adds` has, by what an Add gives or hands on, the tensors it is made of;
    it is None for a group that is not linear.
    """

    channels: int
    makers: list[Layer] = field(default_factory=list)
    takers: list[Layer] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)
    reach: dict[str, Doubles] = field(default_factory=dict)
    adds: dict[str, list[str]] | None = field(default_factory=dict)

    def scales(self, seen: Bounds) -> Doubles:
        """What to divide every channel by, shape (channels,): 1 for those that are never used, or may be clipped.

        Channels that cannot be clipped are brought to the size of those that may, and stay below the limit.
        """
        ones = np.ones(self.channels)
        size = np.max(
            [np.max(np.abs(_channels(seen, layer.node.input[0], ones)), axis=0) for layer in self.takers], axis=0
        )
        weight = np.max([_columns(layer) for layer in self.takers], axis=0)
        used = (size > 0) & (weight > 0)
        free = np.all([used, *(reach <= 1 for reach in self.reach.values())], axis=0)
        if not free.any():
            return ones
        wanted = np.sqrt(np.divide(size, weight, out=ones.copy(), where=used))
        wanted /= np.exp(np.log(wanted[used & ~free if (used & ~free).any() else free]).mean())
        wanted = np.clip(wanted, 1 / LARGEST, LARGEST)
        return np.where(free, np.max([wanted, *self.reach.values()], axis=0), 1.0)

    def sources(self, tensor: str) -> list[str]:
        """The makers' outputs a tensor of a linear group is the sum of, each as often as it is added."""
        parts = (self.adds or {}).get(tensor)
        return [tensor] if parts is None else [each for part in parts for each in self.sources(part)]


def groups(model: Any) -> Iterator[Group]:
    """Every group of channels that can be scaled, in the graph's order."""
    graph, known = Graph(model.graph), {layer.output: layer for layer in layers(model)}
    seen: set[str] = set()
    for layer in known.values():
        if layer.output in seen or not layer.has_bias:
            continue
        found = _Walk(graph, known, Group(len(layer.rows))).group(layer.output)
        if found is not None:
            seen.update(found.tensors)
            yield found


@dataclass(eq=False)
class _Walk:
    """From tensor to tensor, as far as a scale is handed on."""

    graph: Graph
    known: Mapping[str, Layer]
    found: Group

    def group(self, first: str) -> Group | None:
        """The group `first` is in; None where it cannot be scaled."""
        waiting = [first]
        while waiting:
            tensor = waiting.pop(0)
            if tensor in self.found.tensors:
                continue
            if tensor in self.graph.outputs or (maker := self.graph.producer.get(tensor)) is None:
                return None
            self.found.tensors.append(tensor)
            steps = [
                self._made(tensor, maker),
                *(self._read(tensor, node) for node in self.graph.readers.get(tensor, [])),
            ]
            for reached in steps:
                if reached is None:
                    return None
                waiting += reached
        return self.found if self.found.takers else None

    def _made(self, tensor: str, maker: Any) -> list[str] | None:
        if (layer := self.known.get(tensor)) is None:
            return self._through(maker)
        if not layer.has_bias or len(layer.rows) != self.found.channels or not _own_bias(layer, self.graph):
            return None
        self.found.makers.append(layer)
        return []

    def _read(self, tensor: str, node: Any) -> list[str] | None:
        layer = self.known.get(node.output[0])
        if layer is None:
            return self._through(node)
        if (
            list(node.input).count(tensor) != 1
            or node.input[0] != tensor
            or len(_columns(layer)) != self.found.channels
        ):
            return None
        self.found.takers.append(layer)
        return []

    def _through(self, node: Any) -> list[str] | None:
        """The tensors that have the scale of what a node reads and makes; None where it hands none on."""
        kind, first, last = node.op_type, node.input[0] if node.input else "", node.output[0]
        if kind == "Add" and not {*node.input} & self.graph.constants:
            if self.found.adds is not None:
                self.found.adds[last] = list(node.input)
            return [*node.input, last]
        if kind == "Identity" and self.found.adds is not None:
            self.found.adds[last] = [first]
            return [first, last]
        self.found.adds = None
        before = self.graph.producer.get(first)
        if (kind in _PASS and len(node.output) == 1) or (kind in _FLAT and before and before.op_type in _GLOBAL):
            return [first, last]
        if kind == "Clip" and (limit := _limit(node, self.graph)) is not None and (maker := self.known.get(first)):
            source = self.graph.producer.get(maker.node.input[0])
            most = _limit(source, self.graph) if source is not None and source.op_type == "Clip" else None
            self.found.reach[first] = _reach(maker, np.inf if most is None else most, self.graph) / limit
            return [first, last]
        return None


class _Constants:
    """The constants of a model, float64 while they are worked on."""

    def __init__(self, model: Any) -> None:
        self.model, self.graph = model, Graph(model.graph)
        self.held = self.graph.initializers
        self.changed: dict[str, Doubles] = {}

    def __getitem__(self, name: str) -> Doubles:
        from onnx import numpy_helper

        if name not in self.changed:
            self.changed[name] = numpy_helper.to_array(self.held[name]).astype(np.float64)
        return self.changed[name]

    def scale_outputs(self, layer: Layer, factors: Doubles) -> None:
        name, *bias = layer.node.input[1:]
        shape = [1] * layer.weights.ndim
        shape[layer.axis] = -1
        self.changed[name] = self[name] * factors.reshape(shape)
        for each in filter(None, bias):
            self.changed[each] = self[each] * factors

    def scale_inputs(self, layer: Layer, factors: Doubles) -> None:
        name = layer.node.input[1]
        scaled = _by_input(layer, self[name]) * _spread(layer, factors)
        matrix = layer.axis == 1 and not layer.window.kernel
        self.changed[name] = scaled[0, :, :, 0].T if matrix else scaled.reshape(layer.weights.shape)

    def move(self, layer: Layer, by: Doubles) -> None:
        """Add to a layer's bias, shape (outputs,); it is given one where it has none."""
        node = layer.node
        if len(node.input) < 3 or not node.input[2]:
            del node.input[2:]
            node.input.append(f"{layer.output}_bias")
            self.changed[node.input[2]] = np.zeros(len(by))
        self.changed[node.input[2]] = self[node.input[2]] + by

    def put_back(self) -> None:
        from onnx import numpy_helper

        for name, values in self.changed.items():
            made = numpy_helper.from_array(values.astype(np.float32), name)
            if name in self.held:
                self.held[name].CopyFrom(made)
            else:
                self.model.graph.initializer.append(made)


def _absorb(group: Group, constants: _Constants, seen: Bounds) -> int:
    """Move the middle of every channel of a linear group to 0, and into the biases of what reads it; how many were.

    Not where padding would then stand for another value, nor where a bias is not the layer's own.
    """
    takers = group.takers
    if group.adds is None or any(any((*each.window.before, *each.window.after)) for each in takers):
        return 0
    if not all(each.has_bias and _own_bias(each, constants.graph) for each in takers):
        return 0
    zeros = np.zeros(group.channels)
    middle = {each.output: np.mean(_channels(seen, each.output, zeros), axis=0) for each in group.makers}
    for maker in group.makers:
        constants.move(maker, -middle[maker.output])
    for taker in takers:
        taken = np.sum([middle[each] for each in group.sources(taker.node.input[0])], axis=0)
        weights = _by_input(taker, constants[taker.node.input[1]])
        constants.move(taker, (weights * _spread(taker, taken)).sum(axis=(2, 3)).reshape(-1))
    return group.channels


def _by_input(layer: Layer, weights: Doubles) -> Doubles:
    """Weights as (groups, outputs of one, inputs of one, places); a matrix with its outputs first or last as it has
    them."""
    if not layer.window.kernel:
        return weights[None, :, :, None] if layer.axis == 0 else weights.T[None, :, :, None]
    count = layer.window.groups
    return weights.reshape(count, len(weights) // count, weights.shape[1], -1)


def _spread(layer: Layer, values: Doubles) -> Doubles:
    """A value an input channel, to be multiplied with `_by_input`."""
    return values.reshape(layer.window.groups, 1, -1, 1)


def _columns(layer: Layer) -> Doubles:
    """The largest weight that reads each input channel."""
    largest: Doubles = np.abs(_by_input(layer, layer.weights.astype(np.float64))).max(axis=(1, 3))
    return largest.reshape(-1)


def _channels(seen: Bounds, tensor: str, other: Doubles) -> tuple[Doubles, Doubles]:
    return seen.get(tensor, (other, other))


def _reach(layer: Layer, most: float, graph: Graph) -> Doubles:
    """The largest value each output can have for inputs in 0..`most`."""
    from onnx import numpy_helper

    up = np.maximum(layer.rows.astype(np.float64), 0).sum(axis=1)
    bias = [
        numpy_helper.to_array(graph.initializers[name]).astype(np.float64) for name in layer.node.input[2:3] if name
    ]
    reach: Doubles = np.sum([np.multiply(up, most, out=np.zeros_like(up), where=up > 0), *bias], axis=0)
    return reach


def _limit(node: Any, graph: Graph) -> float | None:
    """The largest value a Clip at 0 lets through; None for another Clip."""
    from onnx import numpy_helper

    if len(node.input) != 3 or not all(name in graph.initializers for name in node.input[1:]):
        return None
    low, high = (float(numpy_helper.to_array(graph.initializers[name])) for name in node.input[1:])
    return high if low == 0 and high > 0 else None


def _own_bias(layer: Layer, graph: Graph) -> bool:
    """Whether nothing else reads the bias, and it counts as it is."""
    own = all(
        not name or (name in graph.initializers and len(graph.readers[name]) == 1) for name in layer.node.input[2:3]
    )
    return own and attributes(layer.node).get("beta", 1.0) == 1.0
