"""Expected squared error: what quantizing over a range costs, from the histogram alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptq.calibration.histogram import HALF, Histogram
from ptq.quantization.quantizer import Quantizer

Doubles = npt.NDArray[np.float64]

_AT_ONCE = 1 << 17  # cells held in memory at a time


@dataclass(frozen=True, eq=False)
class ExpectedError:
    """Mean squared error of quantizers over one tensor.

    Values lie evenly spread inside their bin, but for the bin around zero: it stands for exact zeros, which every
    quantizer keeps. Working in bins as units keeps 1e30 and denormals alike away from overflow.
    """

    seen: Histogram

    def __post_init__(self) -> None:
        k = np.arange(-HALF, HALF, dtype=np.float64)
        left, right = np.where(k <= 0, k - 1, k), np.where(k >= 0, k + 1, k)
        counts = self.seen.counts.astype(np.float64)
        counts[HALF] = 0.0
        moments = (counts, counts * (left + right) / 2, counts * (left * left + left * right + right * right) / 3)
        object.__setattr__(self, "_density", counts)
        object.__setattr__(self, "_below", tuple(np.concatenate([[0.0], np.cumsum(each)]) for each in moments))

    def clipping_and_rounding(self, quantizer: Quantizer, lows: Doubles, highs: Doubles) -> Doubles:
        """A fast estimate for many ranges: exact clipping, and scale^2 / 12 for what lies inside.

        Good wherever the density hardly changes over one step. `lows` and `highs` are broadcast; units of the tensor
        squared, a mean over all values.
        """
        scale, _ = quantizer.grids(lows, highs)
        step = scale / self.seen.width
        if quantizer.symmetric:
            highs = np.maximum(-lows, highs)
            lows = -highs
        low, high = lows / self.seen.width, highs / self.seen.width
        n0, n1, n2 = self._moments(low)
        p0, p1, p2 = self._moments(high)
        all0, all1, all2 = (each[-1] for each in self._below)  # type: ignore[attr-defined]
        clipped = n2 - 2 * low * n1 + low**2 * n0
        clipped = clipped + (all2 - p2) - 2 * high * (all1 - p1) + high**2 * (all0 - p0)
        return self._mean(clipped + step.astype(np.float64) ** 2 / 12 * (p0 - n0))

    def __call__(self, quantizer: Quantizer, lows: Doubles, highs: Doubles) -> Doubles:
        """The error of the real quantizer over each [low, high], shape (n,): a sum over the cells of its levels."""
        scale, zero_point = quantizer.grids(lows, highs)
        level = np.arange(quantizer.qmin, quantizer.qmax + 1, dtype=np.float64)
        at_once = max(1, _AT_ONCE // len(level))
        errors = np.empty(len(scale))
        for start in range(0, len(scale), at_once):
            part = slice(start, start + at_once)
            step = scale[part, None].astype(np.float64) / self.seen.width
            value = (level - zero_point[part, None]) * step
            edges = np.full((len(value), len(level) + 1), np.inf)
            edges[:, 0] = -np.inf
            edges[:, 1:-1] = value[:, :-1] + step / 2
            m0, m1, m2 = (np.diff(each, axis=1) for each in self._moments(edges))
            errors[part] = (m2 - 2 * value * m1 + value**2 * m0).sum(axis=1)
        return self._mean(np.maximum(errors, 0.0))

    def _moments(self, x: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        """Count, sum and sum of squares of what lies below x, in bins."""
        x = np.clip(x, -float(HALF), float(HALF))
        k = np.trunc(x)
        index = np.minimum(k.astype(np.intp) + HALF, 2 * HALF - 1)
        left = np.where(k < 0, k - 1, k)
        density = self._density[index]  # type: ignore[attr-defined]
        below = [each[index] for each in self._below]  # type: ignore[attr-defined]
        return (
            below[0] + density * (x - left),
            below[1] + density * (x * x - left * left) / 2,
            below[2] + density * (x**3 - left**3) / 3,
        )

    def _mean(self, total: Doubles) -> Doubles:
        return total / max(self.seen.count, 1) * self.seen.width**2
