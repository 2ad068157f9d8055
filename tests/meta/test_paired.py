"""ptq.metrics.paired: the interval and the p are what they say."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.errors import BadData, PtqError
from ptq.metrics.interval import Interval
from ptq.metrics.paired import images_to_resolve, mcnemar, mean_drop, paired_drop, tango_interval

pytest.importorskip("scipy", reason="paired statistics need scipy: pip install 'ptq[suite]'")


def outcomes(n: int, b: int, c: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and other, of n images: b only the reference has right, c only the other, half the rest both."""
    reference, other = np.zeros(n, bool), np.zeros(n, bool)
    reference[:b] = True
    other[b : b + c] = True
    both = slice(b + c, b + c + (n - b - c) // 2)
    reference[both] = other[both] = True
    return reference, other


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 2000))
    b = draw(st.integers(0, n))
    return n, b, draw(st.integers(0, n - b))


@given(tables(), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_interval_holds_the_drop_and_swaps_sign_with_the_models(table: tuple[int, int, int], confidence: float) -> None:
    reference, other = outcomes(*table)
    there = paired_drop(reference, other, confidence)
    back = paired_drop(other, reference, confidence)
    assert -100 <= there.low <= there.drop <= there.high <= 100
    assert there.low < there.high
    assert there.drop == pytest.approx(100 * (reference.mean() - other.mean()))
    assert (back.drop, back.low, back.high, back.p) == pytest.approx((-there.drop, -there.high, -there.low, there.p))


@given(tables())
@settings(max_examples=40, deadline=None)
def test_more_confidence_is_wider(table: tuple[int, int, int]) -> None:
    narrow, wide = tango_interval(*table, 0.9), tango_interval(*table, 0.99)
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]


@pytest.mark.parametrize(("n", "b", "c"), [(50, 12, 2), (932, 40, 22), (200, 3, 9), (30, 0, 4)])
def test_limits_are_where_the_score_statistic_reaches_z(n: int, b: int, c: int) -> None:
    """Against the definition, the constrained likelihood maximised numerically instead of in closed form."""
    from scipy.optimize import minimize_scalar

    z = NormalDist().inv_cdf(0.975)
    for limit in tango_interval(n, b, c, 0.95):

        def cost(p21: float, limit: float = limit) -> float:
            cells = (p21 + limit, b), (p21, c), (1 - 2 * p21 - limit, n - b - c)
            return -sum(count * math.log(max(share, 1e-300)) for share, count in cells if count)

        bounds = (max(0.0, -limit), (1 - limit) / 2)
        p21 = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        score = (b - c - n * limit) / math.sqrt(n * (2 * p21 + limit * (1 - limit)))
        assert abs(score) == pytest.approx(z, rel=1e-3)


def test_no_disagreement_is_not_certainty() -> None:
    same = np.ones(100, bool)
    interval = paired_drop(same, same, 0.95)
    z2 = NormalDist().inv_cdf(0.975) ** 2
    assert interval.drop == 0
    assert interval.p == 1.0
    assert interval.high == pytest.approx(100 * z2 / (100 + z2))
    assert interval.low == pytest.approx(-interval.high)


@pytest.mark.parametrize(("p10", "p01"), [(0.02, 0.01), (0.06, 0.02), (0.005, 0.005), (0.03, 0.0)])
def test_coverage_is_near_nominal(p10: float, p01: float) -> None:
    n, confidence, draws = 300, 0.95, 3000
    random = np.random.default_rng(3)
    seen = random.multinomial(n, [p10, p01, 1 - p10 - p01], size=draws)
    kinds, counts = np.unique(seen[:, :2], axis=0, return_counts=True)
    inside = 0
    for (b, c), count in zip(kinds.tolist(), counts.tolist(), strict=True):
        low, high = tango_interval(n, b, c, confidence)
        inside += count * (low <= p10 - p01 <= high)
    assert 0.925 <= inside / draws <= 0.985


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (10, 2), (0, 7)])
def test_mcnemar_is_the_exact_binomial(b: int, c: int) -> None:
    total = b + c
    tails = [math.comb(total, k) / 2**total for k in range(total + 1)]
    assert mcnemar(b, c, "greater") == pytest.approx(sum(tails[b:]))
    assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * min(sum(tails[b:]), sum(tails[: b + 1]))))


def test_images_to_resolve_resolve() -> None:
    n, b, c, bar = 500, 20, 10, 2.5
    interval = paired_drop(*outcomes(n, b, c), 0.95)
    assert interval.low < bar < interval.high
    needed = images_to_resolve(interval, n, bar)
    assert needed is not None
    assert needed > n
    times = needed / n
    _, enough = tango_interval(needed * 1.05, b * times, c * times, 0.95)
    _, short = tango_interval(needed * 0.8, b * times * 0.8, c * times * 0.8, 0.95)
    assert 100 * enough < bar < 100 * short


def test_images_to_resolve_at_the_ends() -> None:
    assert images_to_resolve(Interval(1.0, 0.0, 2.0, 0.95), 100, 1.0) is None
    assert images_to_resolve(Interval(1.0, 0.0, 2.0, 0.95), 100, 3.0) == 100
    assert images_to_resolve(Interval(1.0, 0.0, 2.0, 0.95), 100, 1.5) == 400
    assert images_to_resolve(Interval(1.0, -1.0, 2.0, 0.95), 100, 0.0) == 400


def test_bad_outcomes_are_told() -> None:
    with pytest.raises(BadData, match="one an image"):
        paired_drop(np.ones(3, bool), np.ones(4, bool), 0.95)
    with pytest.raises(BadData, match="one an image"):
        paired_drop(np.ones(0, bool), np.ones(0, bool), 0.95)
    with pytest.raises(PtqError, match=r"confidence=1\.5"):
        paired_drop(np.ones(3, bool), np.ones(3, bool), 1.5)


def test_the_bootstrap_of_a_mean_covers_and_is_the_same_every_time() -> None:
    random, inside = np.random.default_rng(1), 0
    for _ in range(200):
        worse = random.exponential(2.0, 60)
        interval = mean_drop(worse, 0.95, replicates=300)
        assert interval == mean_drop(worse, 0.95, replicates=300)
        assert interval.low <= interval.drop <= interval.high
        inside += interval.low <= 2.0 <= interval.high
    assert inside >= 176
    with pytest.raises(PtqError, match=r"confidence=0 "):
        mean_drop(np.ones(3), 0)
