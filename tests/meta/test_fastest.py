"""One race for all runtimes: which float model is the one to beat, the bar that demands it, and the places."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from ptq.backends.protocol import Census
from ptq.cases import FP32, Case
from ptq.errors import NotInstalled
from ptq.gate.bars import Bar
from ptq.gate.timing import Timing, judge_race
from ptq.gate.verdict import FAIL, PASS
from ptq.latency.fastest import Fastest, fastest
from ptq.latency.race import Race, Times
from ptq.latency.ratio import Budget, Ratio, clock_for
from ptq.report.markdown import summary
from ptq.report.timings import places

BATCH = {"x": np.zeros((1, 2), np.float32)}
RUNTIMES = {"slow": 4e-3, "quick": 1e-3, "absent": None, "middle": 2e-3}
BUDGET = Budget(seconds=0.2, first=4, width=0.5)


def floats(name: str) -> Case:
    return Case("mine", name, FP32)


def predictor(case: Case) -> Any:
    seconds, clock = RUNTIMES[case.backend], clock_for(1)  # of the processor: neighbours do not move it
    if seconds is None:
        raise NotInstalled("not installed: pip install 'ptq[absent]'")

    def predict(batch: Any) -> Any:
        end = clock() + seconds
        while clock() < end:
            pass
        return batch

    return predict


def pipeline(*names: str) -> Any:
    registry = SimpleNamespace(float_case=lambda case: floats(case.backend))
    cases = [
        Case("mine", name, "uint8", "minmax", granularity) for name in names for granularity in ("tensor", "channel")
    ]
    return SimpleNamespace(cases=lambda: cases, registry=registry, predictor=predictor)


def told(value: float) -> Ratio:
    return Ratio(value, value * 0.99, value * 1.01, 0.99, 12, 10.0, 10.0 * value, 1.0)


def judged(against: Ratio | None, backend: str = "slow", own: float = 0.5, **bar: Any) -> Timing:
    case = Case("mine", backend, "uint8", "minmax")
    best = None if against is None else Fastest(floats("quick"), dict)
    race = Race(case, (case.id,), 1, FP32, dict, dict, BATCH, None, Census({}, {}), {}, lambda threads: (dict, dict),
                floats(backend), best)  # fmt: skip
    return judge_race(race, Times(told(own), 1, None, against), Bar("*", "because", max_drop=1.0, **bar), ())


def test_the_fastest_float_model_of_any_runtime_is_found() -> None:
    found = fastest(pipeline(*RUNTIMES), BATCH, BUDGET)
    assert found is not None
    assert found.case == floats("quick")


def test_where_no_float_model_runs_there_is_none() -> None:
    assert fastest(pipeline("absent"), BATCH, BUDGET) is None


def test_slower_than_the_fastest_float_model_is_red_by_its_bar() -> None:
    """Though it is twice as fast as its own."""
    found = judged(told(1.3), max_ratio=0.6, max_ratio_fastest_fp32=1.0)
    assert (found.verdict.name, found.verdict.red) == (FAIL, True)
    assert found.verdict.reason.startswith(
        "mine-slow-uint8-minmax batch 1 against the fastest fp32, mine-quick-fp32: time ratio 1.300"
    )
    assert judged(told(1.3), max_ratio=0.6).verdict.name == PASS
    assert judged(told(0.9), max_ratio=0.6, max_ratio_fastest_fp32=1.0).verdict.name == PASS
    assert not judged(told(1.3), max_ratio_fastest_fp32=1.0, expected_failure=("latency",)).verdict.red


def test_slower_by_the_wall_clock_alone_is_red_too() -> None:
    waits = replace(told(0.9), wall=told(1.8), gap=(1.9, 2.1))
    found = judged(waits, max_ratio_fastest_fp32=1.0)
    assert (found.verdict.name, found.verdict.red) == (FAIL, True)
    assert "by the wall clock: time ratio 1.800" in found.verdict.reason


def test_a_bar_on_a_race_that_could_not_be_is_red() -> None:
    found = judged(None, max_ratio_fastest_fp32=1.0)
    assert (found.verdict.name, found.verdict.red) == (FAIL, True)
    assert "no float model of any runtime could be timed" in found.verdict.reason


def test_one_race_is_enough_where_the_own_float_model_is_the_fastest() -> None:
    def refuse(batch: Any) -> Any:
        raise AssertionError("it was raced a second time")

    case, own = Case("mine", "quick", "uint8", "minmax"), floats("quick")
    race = Race(case, (case.id,), 1, FP32, predictor(own), predictor(own), BATCH, None, Census({}, {}), {},
                lambda threads: (predictor(own), predictor(own)), own, Fastest(own, refuse))  # fmt: skip
    times = race.run(BUDGET)
    assert times.fastest is times.one
    other = replace(race, rival=floats("slow"), fastest=Fastest(own, predictor(floats("middle"))))
    ratio = other.run(BUDGET).fastest
    assert ratio is not None
    assert 0.3 < ratio.value < 0.8


def test_all_cases_take_a_place_in_ms() -> None:
    """Quantized ones by their own races, float ones by what ran against them."""
    rows = [judged(told(1.3)).as_json(), judged(told(0.8), "quick", own=0.8).as_json()]
    found = places(rows)
    assert [(place.number, place.id, round(place.ratio, 3), round(place.ms, 2)) for place in found] == [
        (1, "mine-quick-uint8-minmax", 0.8, 8.0),
        (2, "mine-quick-fp32", 1.0, 10.0),
        (3, "mine-slow-uint8-minmax", 1.3, 13.0),
        (4, "mine-slow-fp32", 2.6, 26.0),
    ]
    assert str(found[0]) == "mine batch 1, place 1: mine-quick-uint8-minmax 8 ms, 0.800 of the time of the fastest fp32"
    earlier = [{key: value for key, value in row.items() if "fastest" not in key} for row in rows]
    assert places(earlier) == []
    shown = summary({"results": [], "latency": rows})
    assert "| 1 | mine-quick-uint8-minmax | 1 | 8 | 0.800 |" in shown
