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
