"""Histogram: counts in bins of a power-of-two width around zero, whose range grows without losing anything."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HALF = 4096
"""Bins on each side of zero."""

FINEST = -126
"""The smallest exponent of a bin's width: 2^126 is the largest power of two that float32 can scale by."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of a tensor's values.

    Bin `HALF + k` holds the values whose ``trunc(x / width)`` is k, with ``width = 2**exponent``: bin `HALF` is
    (-width, width) around zero, a bin k > 0 is [k * width, (k + 1) * width), a bin k < 0 its mirror image. Doubling
    the width halves k toward zero, so bins merge exactly in pairs and a histogram depends neither on the order of the
    values nor on how they came in batches: its exponent follows from the largest magnitude alone.

    Parameters
    ----------
    counts: int64, shape (2 * HALF,), read-only; the first bin is always empty.
    exponent: of the width, `FINEST` or more.
    """

    counts: Counts
    exponent: int

    @property
    def width(self) -> float:
        """Width of a bin in the units of the tensor."""
        return math.ldexp(1.0, self.exponent)

    @property
    def count(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def lefts(self) -> npt.NDArray[np.float64]:
        """Lower edges of the bins, shape (2 * HALF,)."""
        k = np.arange(-HALF, HALF, dtype=np.float64)
        return np.where(k <= 0, k - 1, k) * self.width

    @property
    def rights(self) -> npt.NDArray[np.float64]:
        """Upper edges of the bins, shape (2 * HALF,)."""
        k = np.arange(-HALF, HALF, dtype=np.float64)
        return np.where(k >= 0, k + 1, k) * self.width

    @property
    def rms(self) -> float:
        """Square root of the mean square of the values, as if each lay in the middle of its bin; 0.0 of none."""
        middles = (self.lefts + self.rights) / 2
        return math.sqrt(float(self.counts @ np.square(middles)) / max(self.count, 1))

    def coarser(self, exponent: int) -> Histogram:
        """The same values in bins of 2^exponent, which is this histogram's own exponent or more."""
        return (
            self if exponent == self.exponent else Histogram(_coarser(self.counts, exponent - self.exponent), exponent)
        )

    def __add__(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values."""
        exponent = max(self.exponent, other.exponent)
        return Histogram(self.coarser(exponent).counts + other.coarser(exponent).counts, exponent)


def exponent_for(magnitude: float) -> int:
    """The exponent of the finest bins that reach `magnitude`, the largest |x| of a tensor."""
    return max(math.frexp(magnitude)[1] - (HALF.bit_length() - 1), FINEST) if magnitude else FINEST


def empty() -> Counts:
    """No values yet."""
    return np.zeros(2 * HALF, np.int64)


def _coarser(counts: Counts, doublings: int) -> Counts:
    # k >> n toward zero: on the magnitude, then mirrored
    k = np.arange(-HALF, HALF)
    target = np.sign(k) * (np.abs(k) >> min(doublings, HALF.bit_length())) + HALF
    merged = empty()
    np.add.at(merged, target, counts)
    return merged
