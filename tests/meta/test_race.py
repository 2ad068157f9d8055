"""A race and its verdict: time that is waited, or lost on more threads, is a finding; noise is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_ratio import Machine, bursts, chain

from ptq.backends.protocol import Census
from ptq.cases import Case
from ptq.data.samples import ArraySamples
from ptq.gate.bars import Bar
from ptq.gate.timing import Timing, judge_race
from ptq.gate.verdict import FAIL, PASS
from ptq.latency.race import Race, Times, _inputs
from ptq.latency.ratio import SAME, Budget, Ratio, measure_ratio

CASE = Case("mine", "onnxruntime", "uint8", "minmax")
NAME = f"{CASE.id} batch 1 against fp32"
BATCH = {"x": np.zeros((4, 128), np.float32)}


class Waiting(Machine):
    """A machine of two clocks: `clock` counts what is computed, `wall` what is waited as well."""

    waited = 0.0

    def wall(self) -> float:
        return self.now + self.waited

    def waiter(self, seconds: float, waits: float) -> Any:
        compute = self.predictor(seconds)

        def predict(batch: Any) -> Any:
            self.waited += waits
            return compute(batch)

        return predict


def timed(other: float, waits: float = 0.0, *, reference_waits: float = 0.0) -> Ratio:
    """Both compute for 10 ms, the other `other` times that, and wait for so many seconds."""
    machine = Waiting(bursts)
    reference, predict = machine.waiter(0.01, reference_waits), machine.waiter(0.01 * other, waits)
    return measure_ratio(reference, predict, BATCH, None, Budget(), machine.clock, machine.wall)


def told(value: float, spread: float = 0.01) -> Ratio:
    return Ratio(value, value * (1 - spread), value * (1 + spread), 0.99, 12, 10.0, 10.0 * value, 1.0)


def judged(one: Ratio, many: Ratio | None = None, **bar: Any) -> Timing:
    return judge_race(raced(), Times(one, 2, many), Bar("*", "because", max_drop=1.0, **bar), ())


def raced(load: Any = None, inputs: Any = BATCH, limit: float | None = None) -> Race:
    load = load or (lambda threads: (dict, dict))
    return Race(CASE, (CASE.id,), 1, "fp32", *load(1), inputs, limit, Census({}, {}), {}, load)


def test_both_clocks_are_read() -> None:
    ratio = timed(0.5, 0.02)
    assert ratio.wall is not None
    assert (ratio.value, ratio.wall.value) == (pytest.approx(0.5, rel=0.05), pytest.approx(2.5, rel=0.05))
    assert (ratio.other_ms, ratio.wall.other_ms) == (pytest.approx(5, rel=0.05), pytest.approx(25, rel=0.05))
    assert ratio.waits
    assert not timed(0.5).waits


def test_a_model_that_waits_is_red_by_its_bar() -> None:
    found = judged(timed(0.5, 0.02), max_ratio=0.9)
    assert (found.verdict.name, found.verdict.red) == (FAIL, True)
    assert found.verdict.reason.startswith(f"{NAME}, by the wall clock: time ratio 2.4")
    assert found.verdict.reason.endswith(f": {CASE.id} waits (sleep, I/O, a lock)")
    assert not judged(timed(0.5, 0.02), max_ratio=0.9, expected_failure=("latency",)).verdict.red


def test_a_model_that_waits_is_a_finding_without_a_bar() -> None:
    found = judged(timed(1.0, 0.02))
    assert found.verdict.name == PASS
    assert found.finding is not None
    assert "\n" not in found.finding
    assert found.finding.startswith(f"{NAME}, by the wall clock: time ratio ")
    assert found.as_json()["wall_ratio"] == pytest.approx(3, rel=0.05)


def test_a_reference_that_waits_is_a_finding_and_not_red() -> None:
    found = judged(timed(1.0, reference_waits=0.02), max_ratio=1.05)
    assert found.verdict.name == PASS
    assert found.finding is not None
    assert found.finding.endswith("fp32 waits (sleep, I/O, a lock)")


def test_more_threads_than_told_are_named() -> None:
    """Processor time adds up what runs at the same time: the wall clock then moves less than it."""
    found = judged(timed(1.0, -0.005))
    assert found.finding is not None
    assert found.finding.endswith(f"{CASE.id} runs on more than one thread")


def test_a_model_that_gains_nothing_by_threads_is_red_by_its_bar() -> None:
    found = judged(told(0.7), told(1.4), max_ratio=1.0)
    assert (found.verdict.name, found.verdict.red) == (FAIL, True)
    assert found.verdict.reason.startswith(f"{NAME}, on 2 threads: time ratio 1.400")
    assert found.verdict.reason.endswith(f"on one thread processor time says 0.700: {CASE.id} gains less by threads")
    assert judged(told(0.7), told(1.4)).verdict.name == PASS
    assert judged(told(0.7), told(0.9), max_ratio=1.0).finding is not None


def test_noise_is_no_finding() -> None:
    for one, many in ((timed(1.0), None), (told(1.0), told(1.0)), (told(1.0), told(1.2, 0.3)), (told(0.7), told(0.5))):
        found = judged(one, many, max_ratio=SAME)
        assert (found.verdict.name, found.finding) == (PASS, None)


def test_a_model_that_only_waits_has_a_ratio() -> None:
    ratio = timed(0.0, 0.02)
    assert 0 < ratio.value < 0.01
    assert ratio.waits


def test_a_race_is_run_on_one_thread_and_on_all(tmp_path: Path) -> None:
    loaded = []

    def load(threads: int) -> Any:
        loaded.append(threads)
        return chain(4, tmp_path / "a.onnx", threads), chain(8, tmp_path / "b.onnx", threads)

    times = raced(load).run(Budget(seconds=0.5))
    assert loaded == ([1] if times.threads == 1 else [1, times.threads])
    assert times.one.wall is None or times.one.wall.value > 1.2
    assert times.many is None or times.many.seconds < 10 * times.one.seconds


@pytest.mark.slow
def test_a_model_against_itself_raises_no_alarm(tmp_path: Path) -> None:
    """By either clock, on one thread and on all: of 20 races none is red, and one at most has a finding."""
    batch = {"x": np.random.default_rng(2).standard_normal((32, 128)).astype(np.float32)}

    def load(threads: int) -> Any:
        return tuple(chain(40, tmp_path / f"{name}.onnx", threads) for name in "ab")

    found = []
    for _ in range(20):
        race = raced(load, batch, SAME)
        found.append(judge_race(race, race.run(), Bar("*", "because", max_drop=1.0, max_ratio=SAME), ()))
    lines = "\n".join(f"{each.verdict.reason}; {each.finding}" for each in found)
    assert not any(each.verdict.red for each in found), lines
    assert sum(each.finding is not None for each in found) <= 1, lines


def test_samples_of_different_length_are_timed_at_their_middle_one() -> None:
    ragged = ArraySamples({"ids": [np.full(length, length) for length in (9, 3, 5, 5, 4, 3, 7)]})
    assert _inputs(ragged, 4)["ids"].tolist() == [[5] * 5] * 4  # type: ignore[arg-type]
    even = ArraySamples({"x": np.arange(6.0)[:, None]})
    assert _inputs(even, 4)["x"].tolist() == [[0], [1], [2], [3]]  # type: ignore[arg-type]
