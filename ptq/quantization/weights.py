"""Weights: the ranges of a constant, one for the whole of it or one a channel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def ranges(weights: npt.NDArray[np.float32], axis: int | None = None) -> tuple[Doubles, Doubles]:
    """(low, high) that hold every weight and 0, float64: of shape () for ``axis=None`` (per tensor), else (channels,).

    Source: Krishnamoorthi (2018), arXiv:1806.08342, section 3.
    """
    others = None if axis is None else tuple(each for each in range(weights.ndim) if each != axis % weights.ndim)
    low, high = np.minimum(weights.min(axis=others), 0), np.maximum(weights.max(axis=others), 0)
    return np.asarray(low, np.float64), np.asarray(high, np.float64)


def unsaturated(weights: npt.NDArray[np.float32], axis: int | None = None) -> tuple[Doubles, Doubles]:
    """`ranges`, symmetric, and so wide that products of signed bytes with unsigned ones, two added up, fit in 16 bits.

    x86 CPUs without VNNI add the products of two neighbours in 16 bits (vpmaddubsw): 255 * (a + b) fits where a + b, of
    one sign, is 128 levels at most: 127 before each is rounded. That costs YOLO11n an eighth of its levels,
    where 7 bits cost it half. Neighbours are consecutive channels at one place of the kernel; where an output reads but
    one channel, kernels add up in 32 bits.
    """
    low, high = ranges(weights, axis)
    bound = np.maximum(-low, high)
    if weights.ndim > 1 and (weights.ndim == 2 or weights.shape[1] > 1):
        rows = np.moveaxis(np.moveaxis(weights, axis or 0, 0), 1, -1).reshape(weights.shape[axis or 0], -1)
        pairs = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2).astype(np.float64)
        sums = np.maximum(np.maximum(pairs, 0).sum(-1), np.maximum(-pairs, 0).sum(-1)).max(axis=1)
        bound = np.maximum(bound, sums if low.shape else sums.max())
    return -bound, bound
