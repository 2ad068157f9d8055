"""Plan: how a float model is to be quantized, and what a correction makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptq.quantization.calibration import Calibration
from ptq.quantization.dtype import Dtype, Integer
from ptq.quantization.method import Range


@dataclass(frozen=True, eq=False)
class WeightGrid:
    """The grid of a weight whose values lie on it exactly.

    `scale` and `zero_point` have shape () for a grid of the whole tensor, with ``axis=None``, else (channels,) along
    `axis`.
    """

    integer: Integer
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]
    axis: int | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """How to quantize.

    Parameters
    ----------
    dtype: element types of activations and weights.
    ranges: (low, high) by tensor name of the prepared model, in the tensor's units.
    per_channel: whether every output channel of a weight has its own scale.
    exclude: names of nodes that stay in float.
    grids: those of weights that were chosen already, by tensor name.
    integers: those of activations and weights that are not `dtype`'s, by tensor name.
    """

    dtype: Dtype
    ranges: Mapping[str, Range]
    per_channel: bool
    exclude: Sequence[str] = ()
    grids: Mapping[str, WeightGrid] = field(default_factory=dict)
    integers: Mapping[str, Integer] = field(default_factory=dict)

    def activation(self, tensor: str) -> Integer:
        """What an activation becomes."""
        return self.integers.get(tensor, self.dtype.activation)

    def weight(self, tensor: str) -> Integer:
        """What a weight becomes."""
        return self.integers.get(tensor, self.dtype.weight)


Correct = Callable[[Path, Path, Plan, Calibration], tuple[Plan, str]]
"""``corrects(model, out, plan, calibration)`` writes the float `model` to `out` with weights on grids and biases moved.
Tensor names stay as they are. Returns the plan with these `grids` (and ranges, where it moves them too), and what was
done, in a few words for the report."""
