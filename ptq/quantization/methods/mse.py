"""mse: the range with the least expected squared error."""

from __future__ import annotations

import numpy as np

from ptq.calibration.statistics import TensorStatistics
from ptq.quantization.expected_error import Doubles, ExpectedError
from ptq.quantization.method import Method
from ptq.quantization.quantizer import Quantizer

_BOUNDS = 32  # candidates a side, evenly spaced in logarithm
_SMALLEST = 1 / 128  # the smallest of them, as a share of the seen bound
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
    low_shares = high_shares = np.append(0.0, np.geomspace(_SMALLEST, 1.0, _BOUNDS))
    gap = _SMALLEST ** (-1 / (_BOUNDS - 1)) - 1
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
        low_shares, high_shares = _around(best[0], bottom, gap), _around(best[1], top, gap)
        gap /= 6
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


def _around(bound: float, whole: float, gap: float) -> Doubles:
    """Shares of `whole` about as near to `bound` as the neighbours it won over, `gap` being relative."""
    if whole == 0.0:
        return np.zeros(1)
    share = min(bound / whole, 1.0)
    reach = gap * max(share, _SMALLEST)
    return np.linspace(max(0.0, share - reach), min(1.0, share + reach), 13)


METHOD = Method("mse", mse)
