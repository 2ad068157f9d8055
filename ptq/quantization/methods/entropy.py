"""entropy: the range whose quantized distribution loses the least information."""

from __future__ import annotations

import numpy as np

from ptq.calibration.histogram import HALF
from ptq.calibration.statistics import TensorStatistics
from ptq.quantization.method import Method
from ptq.quantization.quantizer import Quantizer

_CANDIDATES = 256


def entropy(statistics: TensorStatistics, quantizer: Quantizer) -> tuple[float, float]:
    """The [-t, t], cut to what was seen, with the least Kullback-Leibler divergence.

    t runs over 256 thresholds from one bin a level to the whole range. Zero is exact in every grid, so the bin of
    zeros takes no part. A grid with more levels than the histogram has bins leaves nothing to search: minmax.

    Source: Migacz, 8-bit Inference with TensorRT (GTC 2017); here on 4,096 bins a side, against the levels of the real
    grid, asymmetric or symmetric, instead of 128 bins of magnitudes.
    """
    bottom, top = min(0.0, statistics.min), max(0.0, statistics.max)
    largest = max(-bottom, top)
    sides = 1.0 if min(-bottom, top) == 0.0 and not quantizer.symmetric else 2.0
    smallest = quantizer.levels / sides * statistics.histogram.width
    if smallest >= largest:
        return bottom, top
    thresholds = np.linspace(smallest, largest, _CANDIDATES)
    lows, highs = np.maximum(-thresholds, bottom), np.minimum(thresholds, top)
    lost = divergence(statistics, quantizer, lows, highs)
    best = int(np.argmin(lost)) if lost.min() < lost[-1] else len(lost) - 1
    return float(lows[best]), float(highs[best])


def divergence(
    statistics: TensorStatistics,
    quantizer: Quantizer,
    lows: np.ndarray[tuple[int], np.dtype[np.float64]],
    highs: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """KL(P || Q) in nats of each range, shape (n,).

    P is the histogram with what is clipped moved into the outermost bins; Q spreads each level's count evenly over its
    occupied bins; a level reached by clipped values only counts as half a value, where the source smooths too.
    """
    counts = statistics.histogram.counts.astype(np.float64)
    counts[HALF] = 0.0
    below = np.concatenate([[0.0], np.cumsum(counts)])
    occupied = np.concatenate([[0.0], np.cumsum(counts > 0)])
    surprise = np.concatenate([[0.0], np.cumsum(_xlogx(counts))])
    total = below[-1]
    if total == 0.0:
        return np.zeros(len(lows))
    scale, zero_point = quantizer.grids(lows, highs)
    step = scale.astype(np.float64)[:, None] / statistics.histogram.width
    edges = (np.arange(quantizer.qmin, quantizer.qmax + 2) - 0.5 - zero_point[:, None]) * step
    index = _first_at_or_above(edges)
    kept, spread = np.diff(below[index], axis=1), np.diff(occupied[index], axis=1)
    first, last = index[:, 0], index[:, -1]
    left, right = below[first], total - below[last]
    inside = np.maximum(total - left - right, 1.0)
    reference = kept.copy()
    reference[:, 0] += left
    reference[:, -1] += right
    own = surprise[last] - surprise[first]
    for outermost, outside in ((np.minimum(first, 2 * HALF - 1), left), (np.maximum(last - 1, 0), right)):
        own += _xlogx(counts[outermost] + outside) - _xlogx(counts[outermost])
    cross = reference * np.log(np.maximum(kept, 0.5) / np.maximum(spread, 1.0) / inside[:, None])
    divergences: np.ndarray[tuple[int], np.dtype[np.float64]] = (own - cross.sum(axis=1)) / total - np.log(total)
    return np.maximum(divergences, 0.0)


def _xlogx(x: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return x * np.log(np.maximum(x, 1.0))


def _first_at_or_above(
    edges: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, int], np.dtype[np.intp]]:
    """Index of the first bin whose middle is not below an edge; edges in bins from zero."""
    up, down = np.ceil(edges - 0.5), np.ceil(edges + 0.5)
    k = np.where(edges > 0, np.maximum(up, 1.0), np.minimum(down, 0.0))
    first: np.ndarray[tuple[int, int], np.dtype[np.intp]] = np.clip(k + HALF, 0, 2 * HALF).astype(np.intp)
    return first


METHOD = Method("entropy", entropy)
