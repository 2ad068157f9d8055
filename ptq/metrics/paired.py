"""Paired: what two models' right and wrong answers on the same images say about the drop between them.

Only the images on which they disagree carry information: b = the reference right and the other wrong, c = the reverse.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ptq.errors import BadData, PtqError
from ptq.metrics.interval import Interval

Right = npt.NDArray[np.bool_]


def paired_drop(reference_right: Right, right: Right, confidence: float = 0.95) -> Interval:
    """The drop (b - c) / n in percentage points, positive when `right` is worse, with Tango's score interval.

    The interval is Tango's for the difference of paired proportions: T. Tango, "Equivalence test and confidence
    interval for the difference in proportions for the paired-sample design", Statistics in Medicine 17 (1998). It
    holds its coverage where b and c are small or 0, where the textbook (Wald) interval collapses to a point.
    `p` is McNemar's exact two-sided p: a binomial test of b out of b + c at 1/2 (1.0 when there is no disagreement).

    Parameters
    ----------
    reference_right, right: bool, shape (N,), in the same order of images, N >= 1.
    confidence: of the two-sided interval, inside (0, 1).

    Raises `BadData` for arrays of unequal or no length, `PtqError` for a confidence outside (0, 1).
    """
    n, b, c = _disagreements(reference_right, right)
    low, high = tango_interval(n, b, c, confidence)
    return Interval(100 * ((b - c) / n), 100 * low, 100 * high, confidence, mcnemar(b, c))


def mean_drop(worse: npt.NDArray[np.float64], confidence: float = 0.95, replicates: int = 2000) -> Interval:
    """The mean of `worse`, shape (N,), how much worse each sample became, with its percentile bootstrap interval.

    The generator is its own, seeded by N. Source: Efron (1979), Bootstrap methods: another look at the jackknife.
    Raises `PtqError` for a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise PtqError(f"confidence={confidence!r} should be above 0 and below 1, e.g. 0.95")
    n = len(worse)
    generator = np.random.default_rng(n)
    sizes = _pieces(replicates, max(1, 4_000_000 // n))
    means = np.concatenate([worse[generator.integers(0, n, (size, n))].mean(axis=1) for size in sizes])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    drop = float(worse.mean())
    return Interval(drop, min(float(low), drop), max(float(high), drop), confidence)


def mcnemar(b: int, c: int, alternative: str = "two-sided") -> float:
    """McNemar's exact p for `b` images only the reference has right and `c` only the other has.

    `alternative`: ``two-sided``, or ``greater``: small when b is larger than chance has it, so the other is worse.
    """
    if b + c == 0:
        return 1.0
    if alternative == "greater":
        return _tail(b + c, b)
    return min(1.0, 2 * _tail(b + c, max(b, c)))


def tango_interval(n: float, b: float, c: float, confidence: float) -> tuple[float, float]:
    """Tango's score interval for (b - c) / n: (low, high) in -1..1, low <= (b - c) / n <= high."""
    if not 0 < confidence < 1:
        raise PtqError(f"confidence={confidence!r} should be above 0 and below 1, e.g. 0.95")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    high = _upper_limit(n, b, c, z)
    return -_upper_limit(n, c, b, z), high


def images_to_resolve(interval: Interval, n: int, max_drop: float) -> int | None:
    """About how many images would take `max_drop` (percentage points) out of `interval`, made from `n` images.

    It takes the drop to stay what it is and the width to go with 1 / sqrt(n), as every such interval's does.
    Returns `n` when the interval does not hold `max_drop` in its inside, None when the drop is `max_drop`: then no
    number of images would do.
    """
    distance = abs(interval.drop - max_drop)
    half = interval.high - interval.drop if interval.drop < max_drop else interval.drop - interval.low
    if not interval.low < max_drop < interval.high:
        return n
    if distance == 0:
        return None
    return max(n + 1, math.ceil(n * (half / distance) ** 2))


def _tail(n: int, least: int) -> float:
    """The chance of `least` heads or more in `n` tosses, exact: whole numbers, divided once."""
    term = whole = math.comb(n, least)
    for heads in range(least, n):
        term = term * (n - heads) // (heads + 1)
        whole += term
    return whole / (1 << n)


def _pieces(total: int, most: int) -> list[int]:
    """`total` as a sum of parts of at most `most`."""
    return [min(most, total - done) for done in range(0, total, most)]


def _upper_limit(n: float, b: float, c: float, z: float) -> float:
    """The largest difference in [(b - c) / n, 1] that the score test does not reject, by bisection."""

    def rejected(difference: float) -> bool:
        variance = n * (2 * _constrained(n, b, c, difference) + difference * (1 - difference))
        return n * difference - (b - c) > z * math.sqrt(max(variance, 0.0))

    low, high = (b - c) / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rejected(middle) else (middle, high)
    return high


def _constrained(n: float, b: float, c: float, difference: float) -> float:
    """The most likely probability of a `c` image, given that b's is larger by `difference` (Tango's q21)."""
    first = 2 * n
    second = (2 * n - b + c) * difference - b - c
    third = -c * difference * (1 - difference)
    root = math.sqrt(max(second * second - 4 * first * third, 0.0))
    return max((root - second) / (2 * first), 0.0)


def _disagreements(reference_right: Right, right: Right) -> tuple[int, int, int]:
    want, have = np.asarray(reference_right, dtype=bool), np.asarray(right, dtype=bool)
    if want.ndim != 1 or want.shape != have.shape or len(want) == 0:
        raise BadData(
            f"outcomes of shapes {want.shape} and {have.shape}, but should be equal, (N,), N >= 1: one an image"
        )
    return len(want), int((want & ~have).sum()), int((~want & have).sum())
