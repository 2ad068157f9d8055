"""Weights: the ranges of a constant, one for the whole of it or one a channel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptq.quantizer import Quantizer

Doubles = npt.NDArray[np.float64]

_SHARES = np.linspace(1.0, 0.3, 71)  # clipped bounds tried by `mse`, as shares of the largest; 1.0 is max


def ranges(
    weights: npt.NDArray[np.float32], quantizer: Quantizer, axis: int | None = None, criterion: str = "max"
) -> tuple[Doubles, Doubles]:
    """(low, high) of a weight, float64: of shape () for ``axis=None`` (per tensor), else (channels,).

    `criterion` is ``max``, the whole range (Krishnamoorthi 2018, arXiv:1806.08342, section 3), or ``mse``, the share of
    it whose real quantizer has the least squared error (Banner et al. 2019, arXiv:1810.05723); the whole range is among
    the candidates. Raises `ValueError` for another criterion.
    """
    if criterion not in ("max", "mse"):
        raise ValueError(f"criterion={criterion!r}, but should be 'max' or 'mse'")
    rows = by_channel(weights, axis)
    lows, highs = np.minimum(rows.min(axis=1), 0).astype(np.float64), np.maximum(rows.max(axis=1), 0).astype(np.float64)
    if criterion == "mse":
        best = np.full(len(rows), np.inf)
        low, high = lows, highs
        if quantizer.symmetric:
            bound = np.maximum(-low, high)
            low, high = -bound, bound
        for share in _SHARES:
            error = rows - quantizer.simulate(rows, (low * share)[:, None], (high * share)[:, None])
            squared = np.square(error, dtype=np.float64).sum(axis=1)
            better = squared < best
            best = np.where(better, squared, best)
            lows, highs = np.where(better, low * share, lows), np.where(better, high * share, highs)
    return (lows[0], highs[0]) if axis is None else (lows, highs)


def by_channel(weights: npt.NDArray[np.float32], axis: int | None) -> npt.NDArray[np.float32]:
    """`weights` as one row a channel, shape (channels, rest); one row in all for ``axis=None``."""
    return weights.reshape(1, -1) if axis is None else np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
