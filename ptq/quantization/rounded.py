"""Rounded: a float ONNX model run node by node as static quantization has it: activations on grids, weights given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.calibration.layers import Layer
from ptq.models.nodes import Nodes, Tensors
from ptq.quantization.method import Range
from ptq.quantization.plan import Plan, WeightGrid
from ptq.quantization.points import points
from ptq.quantization.quantizer import Quantizer


class Rounded(Nodes):
    """The nodes of an `onnx.ModelProto` whose activations are on the grids of a plan."""

    def __init__(self, model: Any, plan: Plan, name: Path) -> None:
        super().__init__(model, name)
        self.owners = points(self.graph, plan)
        self.ranges: dict[str, Range] = {}
        self._grids: dict[str, tuple[Quantizer, np.float32, int]] = {}
        for owner in dict.fromkeys(self.owners.values()):
            maker = self.graph.producer.get(owner)
            known = (0.0, 1.0) if maker is not None and maker.op_type == "Softmax" else plan.ranges[owner]
            self.span(owner, plan.activation(owner).quantizer, known)

    def span(self, owner: str, quantizer: Quantizer, known: Range) -> None:
        """Round activation `owner`, and what has its grid, over a range."""
        self.ranges[owner] = known
        self._grids[owner] = quantizer, *quantizer.parameters(*known)

    def settle(self, made: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        """Activations on their grids."""
        return {name: self._round(name, each) for name, each in made.items()}

    def give(
        self, layer: Layer, grid: WeightGrid, rows: npt.NDArray[np.float32], bias: npt.NDArray[np.float32] | None
    ) -> None:
        """Give a layer other weights, on `grid`, and a bias, which is rounded to 32 bits as every runtime does: to
        steps of the product of the scales of inputs and weights, coarse where inputs have few bits."""
        self.constants[layer.node.input[1]] = layer.shaped(rows)
        if bias is not None:
            if layer.node.input[0] in self.owners:
                step = self._grids[self.owners[layer.node.input[0]]][1] * grid.scale
                bias = (np.rint(bias / step) * step).astype(np.float32)
            self.constants[layer.node.input[2]] = bias

    def _round(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if name not in self.owners:
            return values
        quantizer, scale, zero = self._grids[self.owners[name]]
        steps = np.rint(values / scale)
        np.clip(steps, quantizer.qmin - zero, quantizer.qmax - zero, out=steps)
        steps *= scale
        return steps
