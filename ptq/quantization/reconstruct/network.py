"""Network: a float ONNX model and its quantized twin in PyTorch, whose rounding has gradients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptq.calibration.layers import layers
from ptq.errors import Unsupported
from ptq.models.graph import Graph, attributes
from ptq.quantization.plan import Plan
from ptq.quantization.reconstruct.grids import ActivationGrid, WeightRows
from ptq.quantization.reconstruct.operators import operators
from ptq.quantization.reconstruct.points import points

if TYPE_CHECKING:
    from torch import Tensor

FEW = 8
"""Bits: the scales of narrower activations are learned; those of others are chosen well enough by their histogram."""


class Network:
    """A float model, and the model that `plan` makes of `start`.

    `model` is the float `onnx.ModelProto`, `start` the same with the weights of `plan.grids` on their grids. Called
    `name` in messages. Raises `Unsupported` for an operator that no gradient is known of here.
    """

    def __init__(self, model: Any, start: Any, plan: Plan, name: Path) -> None:
        import torch
        from onnx import numpy_helper

        self.graph = Graph(model.graph)
        self._operators = operators()
        unknown = sorted({node.op_type for node in self.graph.nodes} - set(self._operators) - {"Constant"})
        if unknown:
            raise Unsupported(f"{name}: no gradient is known of {', '.join(unknown)}: use the method mse_gptq")
        self._attributes = [attributes(node) for node in self.graph.nodes]
        self.constants = {
            each: torch.from_numpy(numpy_helper.to_array(held).copy()) for each, held in self.graph.initializers.items()
        }
        for node, given in zip(self.graph.nodes, self._attributes, strict=True):
            if node.op_type == "Constant":
                self.constants[node.output[0]] = torch.from_numpy(numpy_helper.to_array(given["value"]).copy())
        self._places = {id(node): index for index, node in enumerate(self.graph.nodes)}
        self.layers = {layer.node.output[0]: layer for layer in layers(model)}
        held, constants = {layer.output: layer for layer in layers(start)}, Graph(start.graph).initializers
        self.weights: dict[str, WeightRows] = {}
        self.biases: dict[str, Tensor] = {}
        self.first: dict[str, Tensor] = {}
        for output, layer in held.items():
            grid = plan.grids.get(layer.node.input[1])
            if grid is None or output not in self.layers:
                continue
            self.weights[output] = WeightRows(
                grid.integer.weight_quantizer, layer.weights, self.layers[output].weights, grid.scale, grid.zero_point,
                grid.axis,
            )  # fmt: skip
            bias = constants.get(layer.node.input[2]) if len(layer.node.input) > 2 else None
            if bias is not None:
                self.first[output] = torch.from_numpy(numpy_helper.to_array(bias).copy())
                self.biases[output] = torch.zeros_like(self.first[output], requires_grad=True)
        self.points = points(self.graph, plan)
        self.activations: dict[str, ActivationGrid] = {}
        for owner in sorted(set(self.points.values())):
            low, high = plan.ranges[owner]
            if self.graph.producer.get(owner) is not None and self.graph.producer[owner].op_type == "Softmax":
                low, high = 0.0, 1.0
            self.activations[owner] = ActivationGrid(plan.activation(owner).quantizer, low, high)
        self.spread = {each: _span(plan.ranges.get(each, (0.0, 1.0))) for each in self.weights}

    def exact(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every tensor of the float model, by name."""
        seen = dict(given)
        for index in range(len(self.graph.nodes)):
            self.run(index, seen)
        return seen

    def rounded(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every activation of the quantized model, by name, with gradients."""
        seen = self.entered(given)
        for index in range(len(self.graph.nodes)):
            self.run(index, seen, rounded=True)
        return seen

    def entered(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs as the quantized model takes them."""
        return {name: self._round(name, each) for name, each in given.items()}

    def run(self, index: int, seen: dict[str, Tensor], rounded: bool = False) -> None:
        """Put what the node of that `index` makes of `seen` into it, as the float or as the quantized model does."""
        node = self.graph.nodes[index]
        if node.op_type == "Constant":
            return
        inputs: list[Any] = [
            None if not name else seen[name] if name in seen else self.constants[name] for name in node.input
        ]
        output = node.output[0]
        if rounded and output in self.weights:
            inputs[1] = self.weights[output]()
            if output in self.biases:
                inputs[2:] = [self._rounded_bias(output, node.input[0])]
        made = self._operators[node.op_type](inputs, self._attributes[index])
        for name, each in zip(node.output, made if isinstance(made, tuple) else (made,), strict=False):
            seen[name] = self._round(name, each) if rounded else each

    def last_read(self, index: int) -> list[str]:
        """The tensors that no node behind that of `index` reads and no output is."""
        names = {*self.graph.nodes[index].input, *self.graph.nodes[index].output} - self.graph.outputs
        last = {name: max((self._places[id(each)] for each in self.graph.readers.get(name, [])), default=-1)
                for name in names}
        return [name for name, place in last.items() if place <= index]

    def bias(self, output: str) -> Tensor:
        """The bias of the layer that makes `output`."""
        return self.first[output] + self.biases[output] * self.spread[output]

    def set_bias(self, output: str, values: npt.NDArray[np.float32]) -> None:
        """Give the layer that makes `output` another bias to start from."""
        import torch

        self.first[output] = torch.from_numpy(values)

    def _rounded_bias(self, output: str, taken: str) -> Tensor:
        """The bias in 32-bit steps of the product of both scales: coarse where the input has few bits."""
        bias, weights = self.bias(output), self.weights[output]
        if taken not in self.points:
            return bias
        step = (self.activations[self.points[taken]].scale * weights.scales.reshape(-1)).detach()
        return bias + ((bias / step).round() * step - bias).detach()

    def _round(self, name: str, values: Tensor) -> Tensor:
        return self.activations[self.points[name]](values) if name in self.points else values


def _span(given: tuple[float, float]) -> float:
    """What a bias is learned in units of."""
    return (given[1] - given[0]) / 256 or 1.0
