"""Absorber: divides a tensor's channels inside what makes it, and multiplies the weights that read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.calibration.layers import Layer
from ptq.calibration.patches import Doubles
from ptq.models.graph import Graph, attributes

_Constant = npt.NDArray[np.float32]


class Absorber:
    """Rewrites an `onnx.ModelProto` in place; `finish` puts in what was collected.

    A constant is never changed where it is, for others may read it: a new one takes its place.
    """

    def __init__(self, model: Any) -> None:
        from onnx import TensorProto, numpy_helper

        self._model, self._graph = model, Graph(model.graph)
        self._constants: dict[str, _Constant] = {
            name: numpy_helper.to_array(each)
            for name, each in self._graph.initializers.items()
            if each.data_type == TensorProto.FLOAT
        }
        self._new: dict[str, _Constant] = {}
        self._inserted: dict[str, Any] = {}

    def divide(self, tensor: str, layers: Sequence[Layer], factors: Doubles) -> bool:
        """Divide the last dimension of `tensor` by `factors`, (channels,), inside what makes it; whether it was done.

        It can be where nothing but `layers` reads the tensor.
        """
        own = {id(layer.node) for layer in layers}
        if tensor in self._graph.outputs or any(id(each) not in own for each in self._graph.readers.get(tensor, [])):
            return False
        steps = self._steps(tensor, factors)
        if steps is None:
            return False
        for node, at, values in steps:
            self._set(node, at, values)
        return True

    def insert(self, tensor: str, layers: Sequence[Layer], factors: Doubles) -> None:
        """Have `layers` read `tensor` divided by `factors`, by a Mul of its own."""
        from onnx import helper

        smoothed = f"{tensor}_smoothed"
        name = self._add(f"{tensor}_factors", (1 / factors).astype(np.float32))
        self._inserted[tensor] = helper.make_node("Mul", [tensor, name], [smoothed], smoothed)
        for layer in layers:
            layer.node.input[0] = smoothed

    def scale(self, layer: Layer, factors: Doubles) -> None:
        """Multiply what the layer multiplies its input's channels with by `factors`."""
        along = np.expand_dims(factors, layer.axis)
        self._set(layer.node, 1, (self._held(layer) * along).astype(np.float32))

    def weights(self, layer: Layer) -> _Constant:
        """What the layer multiplies with by now, of shape (channels, outputs)."""
        return np.moveaxis(self._held(layer), layer.axis, 1)

    def finish(self) -> None:
        """Put new constants and nodes in, each node before its first reader, and leave out what is read no more."""
        from onnx import numpy_helper

        graph = self._model.graph
        waiting, nodes = dict(self._inserted), []
        for node in graph.node:
            for tensor in [each for each, made in waiting.items() if made.output[0] in node.input]:
                nodes.append(waiting.pop(tensor))
            nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in self._new.items())
        read = {*Graph(graph).readers, *(value.name for value in graph.output)}
        kept = [each for each in graph.initializer if each.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)

    def _steps(self, tensor: str, factors: Doubles) -> list[tuple[Any, int, _Constant]] | None:
        """(node, input, new constant) of all that divides `tensor`; None where it cannot be."""
        node = self._graph.producer.get(tensor)
        if node is None:
            return None
        held = [self._constant(name) for name in node.input]
        if node.op_type == "LayerNormalization" and attributes(node).get("axis", -1) == -1:
            vectors = [self._divided(values, factors) for values in held[1:]]
            if vectors and all(each is not None for each in vectors):
                return [(node, at, each) for at, each in enumerate(vectors, 1) if each is not None]
        if node.op_type in ("Mul", "Add") and sum(each is not None for each in held) == 1:
            at = next(at for at, each in enumerate(held) if each is not None)
            vector, other = self._divided(held[at], factors), node.input[1 - at]
            if vector is None:
                return None
            if node.op_type == "Mul":
                return [(node, at, vector)]
            if len(self._graph.readers[other]) == 1 and other not in self._graph.outputs:
                rest = self._steps(other, factors)
                return None if rest is None else [*rest, (node, at, vector)]
        if node.op_type == "MatMul" and held[0] is None and (weights := self._divided(held[1], factors)) is not None:
            return [(node, 1, weights)]
        return None

    def _held(self, layer: Layer) -> _Constant:
        return self._new.get(layer.node.input[1], layer.weights)

    def _constant(self, name: str) -> _Constant | None:
        return self._new.get(name, self._constants.get(name))

    def _divided(self, values: _Constant | None, factors: Doubles) -> _Constant | None:
        """A constant divided along its last dimension. Not one number for all: that is most often the 0.5 of a Gelu,
        which runtimes know by it and fuse."""
        if values is None or values.ndim == 0 or values.shape[-1] != len(factors):
            return None
        return np.ascontiguousarray(values / factors, dtype=np.float32)

    def _set(self, node: Any, at: int, values: _Constant) -> None:
        node.input[at] = self._add(f"{node.output[0]}_input{at}", values)

    def _add(self, name: str, values: _Constant) -> str:
        self._new[name] = values
        return name
