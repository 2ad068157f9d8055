"""Quantizer: the affine integer grid a range is mapped to, and its exact simulation in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quantizer:
    """An affine quantizer: real = scale * (q - zero_point), q an integer of `bits` bits, 2 to 16.

    `signed` q spans [-2^(bits-1), 2^(bits-1) - 1], unsigned [0, 2^bits - 1]. `symmetric` makes the range
    [-a, a] with zero_point in the middle; signed symmetric grids leave out the lowest level
    (int8: -127..127), as ONNX Runtime does for weights.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference (2018); rounding, order of operations and precision are those of onnxruntime.quantization, so that
    scales and zero points agree with it to the last bit.

    Raises `ValueError` for bits outside 2..16.
    """

    bits: int = 8
    signed: bool = False
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ValueError(f"bits={self.bits}, but should be in 2..16")

    @property
    def qmin(self) -> int:
        """The lowest integer of the grid."""
        if not self.signed:
            return 0
        return -(1 << (self.bits - 1)) + int(self.symmetric)

    @property
    def qmax(self) -> int:
        """The highest integer of the grid."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def levels(self) -> int:
        """How many integers the grid has."""
        return self.qmax - self.qmin + 1

    def grids(self, low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """(scale, zero_point) of every range, both of the broadcast shape of `low` and `high`.

        A range is widened to contain 0, and symmetrised to its larger side when the quantizer is symmetric. A range
        too small for a normal float32 scale gets scale 1 and zero_point 0, as in ONNX Runtime.
        """
        lows = np.minimum(np.asarray(low, np.float32), np.float32(0)).astype(np.float64)
        highs = np.maximum(np.asarray(high, np.float32), np.float32(0)).astype(np.float64)
        if self.symmetric:
            highs = np.maximum(-lows, highs)
            lows = -highs
        scale = (highs - lows) / float(self.qmax - self.qmin)
        degenerate = scale < np.finfo(np.float32).tiny
        scale = np.where(degenerate, 1.0, scale)
        middle = np.rint((self.qmin + self.qmax) / 2.0)
        zero_point = np.where(self.symmetric, middle, np.rint(self.qmin - lows / scale))
        return scale.astype(np.float32), np.where(degenerate, 0, zero_point).astype(np.int64)

    def parameters(self, low: float, high: float) -> tuple[np.float32, int]:
        """(scale, zero_point) of one range; `grids` says how it is treated."""
        scale, zero_point = self.grids(low, high)
        return np.float32(scale), int(zero_point)

    def quantize(self, values: Array, scale: npt.ArrayLike, zero_point: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Integers of `values`: round half to even in float32, shift, saturate. Scales broadcast against values."""
        steps = np.rint(np.asarray(values, np.float32) / np.asarray(scale, np.float32))
        shifted = steps + np.asarray(zero_point, np.float32)
        integers: npt.NDArray[np.int32] = np.clip(shifted, self.qmin, self.qmax).astype(np.int32)
        return integers

    def dequantize(
        self, integers: npt.NDArray[np.integer], scale: npt.ArrayLike, zero_point: npt.ArrayLike
    ) -> npt.NDArray[np.float32]:
        """Reals of `integers`, float32."""
        centred = np.asarray(integers, np.int64) - np.asarray(zero_point, np.int64)
        return (centred.astype(np.float32) * np.asarray(scale, np.float32)).astype(np.float32)

    def simulate(self, values: Array, low: npt.ArrayLike, high: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """What `values` become when quantized over [low, high] and dequantized; ranges broadcast against values."""
        scale, zero_point = self.grids(low, high)
        return self.dequantize(self.quantize(values, scale, zero_point), scale, zero_point)
