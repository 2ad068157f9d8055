"""Rounded: a float ONNX model run node by node as static quantization has it: activations on grids, weights given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.calibration.layers import Layer
from ptq.models.nodes import Nodes, Tensors
from ptq.quantization.plan import Plan, WeightGrid
from ptq.quantization.points import points
from ptq.quantization.quantizer import Quantizer


class Rounded(Nodes):
    """The nodes of an `onnx.ModelProto` whose activations are on the grids of a plan."""

    def __init__(self, model: Any, plan: Plan, name: Path) -> None:
        super().__init__(model, name)
        self._grids: dict[str, tuple[Quantizer, np.float32, int]] = {}
        for tensor, owner in points(self.graph, plan).items():
            maker, quantizer = self.graph.producer.get(owner), plan.activation(owner).quantizer
            known = (0.0, 1.0) if maker is not None and maker.op_type == "Softmax" else plan.ranges[owner]
            self._grids[tensor] = quantizer, *quantizer.parameters(*known)

    def enter(self, given: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        """Inputs as the model takes them."""
        return {name: self._round(name, each) for name, each in given.items()}

    def run(self, index: int, seen: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        """What the node of that `index` makes, by tensor, rounded."""
        return {name: self._round(name, each) for name, each in super().run(index, seen).items()}

    def give(
        self, layer: Layer, grid: WeightGrid, rows: npt.NDArray[np.float32], bias: npt.NDArray[np.float32] | None
    ) -> None:
        """Give a layer other weights, on `grid`, and a bias, which is rounded to 32 bits as every runtime does: to
        steps of the product of the scales of inputs and weights, coarse where inputs have few bits."""
        self.constants[layer.node.input[1]] = layer.shaped(rows)
        if bias is not None:
            if layer.node.input[0] in self._grids:
                step = self._grids[layer.node.input[0]][1] * grid.scale
                bias = (np.rint(bias / step) * step).astype(np.float32)
            self.constants[layer.node.input[2]] = bias

    def _round(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if name not in self._grids:
            return values
        quantizer, scale, zero = self._grids[name]
        steps = np.rint(values / scale)
        np.clip(steps, quantizer.qmin - zero, quantizer.qmax - zero, out=steps)
        steps *= scale
        return steps
