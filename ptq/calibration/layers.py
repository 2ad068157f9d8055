"""Layer: a node that multiplies with constant weights, and how it reads its input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.calibration.patches import Window
from ptq.models.graph import Graph, attributes


@dataclass(frozen=True, eq=False)
class Layer:
    """A Conv, Gemm or MatMul node with constant weights; `axis` is the weights' output dimension."""

    node: Any
    weights: npt.NDArray[np.float32]
    axis: int
    window: Window

    @property
    def output(self) -> str:
        """The tensor it makes: what it is known by."""
        return str(self.node.output[0])

    @property
    def has_bias(self) -> bool:
        """Whether it can have a bias: a MatMul cannot."""
        return self.node.op_type in ("Conv", "Gemm")

    @property
    def rows(self) -> npt.NDArray[np.float32]:
        """Weights of shape (outputs, length)."""
        return np.moveaxis(self.weights, self.axis, 0).reshape(self.weights.shape[self.axis], -1)

    def shaped(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The inverse of `rows`: rows in the shape of the weights."""
        moved = rows.reshape(np.moveaxis(self.weights, self.axis, 0).shape)
        return np.ascontiguousarray(np.moveaxis(moved, 0, self.axis))


def layers(model: Any) -> Iterator[Layer]:
    """Every layer of an `onnx.ModelProto` whose weights are its own, in the graph's order.

    Left out: weights that several nodes read, a convolution whose padding depends on its input's size, a transposed or
    scaled product, a product of more than two dimensions of weights.
    """
    from onnx import TensorProto, numpy_helper

    graph = Graph(model.graph)
    constants = {name: each for name, each in graph.initializers.items() if each.data_type == TensorProto.FLOAT}
    for node in graph.nodes:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(graph.readers[node.input[1]]) != 1:
            continue
        if node.input[1] not in constants or node.input[0] in constants:
            continue
        values, given = numpy_helper.to_array(constants[node.input[1]]), attributes(node)
        if node.op_type == "Conv":
            window = _window(values.shape, given)
            if window is not None:
                yield Layer(node, values, 0, window)
        elif values.ndim == 2 and not given.get("transA") and given.get("alpha", 1.0) == 1.0:
            yield Layer(node, values, 0 if given.get("transB") else 1, Window())


def _window(shape: tuple[int, ...], given: dict[str, Any]) -> Window | None:
    kernel = tuple(shape[2:])
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    ones, zeros = [1] * len(kernel), [0] * 2 * len(kernel)
    pads = given.get("pads", zeros)
    return Window(
        kernel,
        tuple(given.get("strides", ones)),
        tuple(given.get("dilations", ones)),
        tuple(pads[: len(kernel)]),
        tuple(pads[len(kernel) :]),
        given.get("group", 1),
    )
