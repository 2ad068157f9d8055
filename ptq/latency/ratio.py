"""Latency: how long one model takes against another, side by side in one process.

Absolute times move by a quarter from one machine to the next, and with every neighbour on the same one; the ratio of
two models measured in turns does not. A round times both in the order A B B A B A A B, so that each follows the other
and itself equally often (whoever runs second finds warmer caches) and drift cancels, and keeps the fastest of a
model's four blocks, so that an interruption costs nothing. The ratio is the median over rounds, its interval a
percentile bootstrap of the median (B. Efron, "Bootstrap methods: another look at the jackknife", 1979), both unmoved
by bursts of noise in fewer than half of the rounds.

Models on one thread are timed by the processor's clock, which neighbours hardly move, and which stands still while a
model waits. The wall clock is therefore read beside it; where the two tell different ratios, one of the models waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ptq.backends.protocol import Predictor
from ptq.data.batch import Batch
from ptq.errors import PtqError

Clock = Callable[[], float]
SAME = 1.05
"""Largest time ratio of the same model to itself that noise explains."""
_RESAMPLES = 2000
_LEAST = 1e-7
"""Seconds that a block takes at least: a model that only waits has a processor time that may not tick."""
_ORDER = (0, 1, 1, 0, 1, 0, 0, 1)


@dataclass(frozen=True)
class Budget:
    """When to stop measuring.

    Parameters
    ----------
    seconds: no new rounds after this long; the rounds of `first` are always made.
    first: rounds before the first look at the interval; every later look doubles them, so that looking often does
        not by itself find a difference.
    block_seconds: least length of a timed block; a shorter call is repeated within it.
    width: the interval is narrow when high / low - 1 is at most this; wider is enough when it is far from the bar.
    confidence: of the interval, over all looks together.
    """

    seconds: float = 10.0
    first: int = 12
    block_seconds: float = 0.002
    width: float = 0.1
    confidence: float = 0.99

    def __post_init__(self) -> None:
        if self.first < 2 or not 0 < self.confidence < 1 or self.seconds <= 0 or self.width <= 0:
            raise PtqError(f"{self}: first should be at least 2, confidence inside (0, 1), seconds and width above 0")


@dataclass(frozen=True)
class Ratio:
    """Time of the other model / time of the reference, below 1 when the other is faster.

    `reference_ms` and `other_ms` are medians per call, in ms; `seconds` is what measuring took. `wall` is what the wall
    clock says of the same calls, None where that is the clock; `gap` is the interval of wall ratio / processor ratio.
    """

    value: float
    low: float
    high: float
    confidence: float
    rounds: int
    reference_ms: float
    other_ms: float
    seconds: float
    wall: Ratio | None = None
    gap: tuple[float, float] = (1.0, 1.0)

    @property
    def waits(self) -> bool:
        """Whether the other takes longer by the wall clock than processor time says, beyond noise."""
        return self.gap[0] > SAME

    @property
    def speedup(self) -> float:
        """How many times faster than the reference: 1 / value."""
        return 1 / self.value


def measure_ratio(
    reference: Predictor,
    other: Predictor,
    batch: Batch,
    bar: float | None = None,
    budget: Budget | None = None,
    clock: Clock | None = None,
    wall: Clock | None = None,
) -> Ratio:
    """Time both on `batch` in turns, until the interval is off the bar and narrow enough, or the budget ends.

    `bar` is the ratio it will be held against, None when none. The interval of look k is made at confidence
    1 - (1 - confidence) / (k (k + 1)), which sums to `confidence` over any number of looks. `clock` defaults to
    ``clock_for(1)``: both predictors run in one thread. `wall` is read beside it, and blocks are as long as it says; it
    defaults to the wall clock, or to `clock` where that is given.
    """
    budget, wall = budget or Budget(), wall or clock or time.perf_counter
    clock = clock or clock_for(1)
    start = time.perf_counter()
    calls = [_calls(predict, batch, budget.block_seconds, wall) for predict in (reference, other)]
    rounds: list[list[tuple[float, float]]] = []
    random = np.random.default_rng(0)
    look, wanted = 1, budget.first
    while True:
        while len(rounds) < wanted and (len(rounds) < budget.first or time.perf_counter() - start < budget.seconds):
            rounds.append(_round(reference, other, batch, calls, (clock, wall)))
        times = np.asarray(rounds)  # shape (rounds, clocks, models)
        logs = np.log(times[:, :, 1] / times[:, :, 0])
        confidence = 1 - (1 - budget.confidence) / (look * (look + 1))
        found = median_interval(logs[:, 0], confidence, random)
        if _enough(*found[1:], bar, budget.width) or time.perf_counter() - start >= budget.seconds:
            taken = time.perf_counter() - start
            ratio = _ratio(times[:, 0], found, budget.confidence, taken)
            if clock is wall:
                return ratio
            beside = _ratio(times[:, 1], median_interval(logs[:, 1], confidence, random), budget.confidence, taken)
            _, low, high = median_interval(logs[:, 1] - logs[:, 0], confidence, random)
            return replace(ratio, wall=beside, gap=(math.exp(low), math.exp(high)))
        look, wanted = look + 1, 2 * wanted


def _ratio(
    times: npt.NDArray[np.float64], found: tuple[float, float, float], confidence: float, seconds: float
) -> Ratio:
    """Of the seconds a call took, shape (rounds, 2), and the median of their log ratio with its interval."""
    value, low, high = map(math.exp, found)
    reference_ms, other_ms = (float(middle) for middle in 1000 * np.median(times, axis=0))
    return Ratio(value, low, high, confidence, len(times), reference_ms, other_ms, seconds)


def clock_for(threads: int) -> Clock:
    """The clock, in seconds, to time predictors of so many threads with.

    With one thread, the processor time of this process: it leaves out what other processes took meanwhile. With more
    it would add up the threads, so the wall clock; also where the processor clock ticks too slowly (Windows: 16 ms).
    """
    fine = time.get_clock_info("process_time").resolution <= 1e-6
    return time.process_time if threads == 1 and fine else time.perf_counter


def median_interval(
    values: npt.NDArray[np.float64], confidence: float, random: np.random.Generator
) -> tuple[float, float, float]:
    """The median of `values`, shape (N,), and its percentile bootstrap interval: (median, low, high)."""
    middle = float(np.median(values))
    chunk = max(1, 2_000_000 // len(values))  # bounds memory: a long run has thousands of rounds
    medians: list[npt.NDArray[np.float64]] = []
    for done in range(0, _RESAMPLES, chunk):
        picked = random.integers(0, len(values), size=(min(chunk, _RESAMPLES - done), len(values)))
        medians.append(np.median(values[picked], axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(medians), [tail, 1 - tail])
    return middle, min(float(low), middle), max(float(high), middle)


def _enough(low: float, high: float, bar: float | None, width: float) -> bool:
    """Whether the interval of the log ratio is off the bar, and narrow or further from it than it is wide."""
    if bar is None:
        return math.expm1(high - low) <= width
    clear = max(low - math.log(bar), math.log(bar) - high)
    return clear > 0 and (math.expm1(high - low) <= width or clear >= high - low)


def _round(
    reference: Predictor, other: Predictor, batch: Batch, calls: list[int], clocks: tuple[Clock, Clock]
) -> list[tuple[float, float]]:
    """Seconds per call of (reference, other) by each clock: the fastest of four blocks each."""
    best = [[math.inf, math.inf], [math.inf, math.inf]]
    for which in _ORDER:
        predict = (reference, other)[which]
        start = [clock() for clock in clocks]
        for _ in range(calls[which]):
            predict(batch)
        for found, clock, before in zip(best, clocks, start, strict=True):
            found[which] = min(found[which], max(_LEAST, clock() - before) / calls[which])
    return [(found[0], found[1]) for found in best]


def _calls(predict: Predictor, batch: Batch, block_seconds: float, clock: Clock) -> int:
    """How many calls fill a block, after a warm-up: the first calls of a session allocate and are slower."""
    best = math.inf
    for _ in range(5):
        start = clock()
        predict(batch)
        best = min(best, clock() - start)
    if best <= 0:
        return 1000
    return max(1, min(100_000, math.ceil(block_seconds / best)))
