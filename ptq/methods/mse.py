"""mse: the range with the least expected squared error."""

from __future__ import annotations

import numpy as np

from ptq.calibration.expected_error import Doubles, ExpectedError
from ptq.calibration.statistics import TensorStatistics
from ptq.quantizer import Quantizer

_BOUNDS = 64  # candidates a side, from the seen bound down to 1/128 of it
_CELLS = 1 << 13  # work spent on the exact error in one round
_ROUNDS = 3


def mse(statistics: TensorStatistics, quantizer: Quantizer) -> tuple[float, float]:
    """The (low, high) whose quantizer, with its own levels and symmetry, has the least expected squared error.

    Both bounds move independently. Candidates are ranked by clipping error plus scale^2 / 12, the best are judged by
    the exact error of the real grid, and the search is repeated around the winner. The whole range is always among
    the candidates, so the result is never worse than minmax.

    Source: Sung, Shin and Hwang (2015), arXiv:1511.06488, and Banner, Nahshan and Soudry (2019), arXiv:1810.05723, who
    choose the clipping value by mean squared error.
    """
    bottom, top = min(0.0, statistics.min), max(0.0, statistics.max)
    error = ExpectedError(statistics.histogram)
    whole = best = (bottom, top)
    low_shares = high_shares = np.concatenate([[0.0], np.geomspace(1 / 128, 1.0, _BOUNDS)])
    for _ in range(_ROUNDS):
        lows, highs = _candidates(quantizer, whole, low_shares, high_shares)
        rough = error.clipping_and_rounding(quantizer, lows, highs)
        keep = np.argsort(rough, kind="stable")[: max(2, _CELLS // quantizer.levels)]
        lows, highs = np.append(lows[keep], best[0]), np.append(highs[keep], best[1])
        exact = error(quantizer, lows, highs)
        winner = int(np.argmin(exact)) if exact.min() < exact[-1] else len(exact) - 1
        best = float(lows[winner]), float(highs[winner])
        if best == (0.0, 0.0):
            return whole
        low_shares, high_shares = _around(best[0], bottom, low_shares), _around(best[1], top, high_shares)
    return best


def _candidates(
    quantizer: Quantizer, whole: tuple[float, float], low_shares: Doubles, high_shares: Doubles
) -> tuple[Doubles, Doubles]:
    bottom, top = whole
    if quantizer.symmetric:
        bound = np.unique(np.concatenate([low_shares, high_shares])) * max(-bottom, top)
        lows, highs = np.maximum(-bound, bottom), np.minimum(bound, top)
    else:
        grid = np.meshgrid(np.unique(bottom * low_shares), np.unique(top * high_shares))
        lows, highs = grid[0].ravel(), grid[1].ravel()
    real = highs > lows
    return lows[real], highs[real]


def _around(bound: float, whole: float, shares: Doubles) -> Doubles:
    """Finer shares between the neighbours of the one that won."""
    if whole == 0.0:
        return shares[:1]
    share = min(bound / whole, 1.0)
    gap = float(np.diff(np.unique(shares)).max()) if len(shares) < _BOUNDS else 0.08 * max(share, 1 / 128)
    return np.linspace(max(0.0, share - gap), min(1.0, share + gap), 17)


METHOD = mse
