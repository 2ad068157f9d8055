"""Quantizer: the affine integer grid a range is mapped to, and its exact simulation in numpy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantizer:
    """An affine quantizer: real = scale * (q - zero_point), q an integer of `bits` bits.

    `signed` q spans [-2^(bits-1), 2^(bits-1) - 1], unsigned [0, 2^bits - 1]. `symmetric` makes the range
    [-a, a] with zero_point in the middle; signed symmetric grids leave out the lowest level
    (int8: -127..127), as ONNX Runtime does for weights.
    """

    bits: int = 8
    signed: bool = False
    symmetric: bool = False
