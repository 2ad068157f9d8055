"""Timings: the races of a report, and which of them are of which results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any, TypedDict

from ptq.cases import FP32

Row = Mapping[str, Any]


class Race(TypedDict):
    """What reports use of an object of the report's ``latency``; units are in `ptq.report.json`."""

    id: str
    stands_for: list[str]
    batch: int
    against: str
    ratio: float
    low: float
    high: float
    confidence: float
    speedup: float
    other_ms: float
    reference_ms: float
    executed: str
    verdict: str
    reason: str
    red: bool


MEASURED = {
    "rival": str | None, "fastest_fp32": str | None, "finding": str | None, "threads": int | None,
    **{
        f"{prefix}{name}": float | None
        for prefix in ("wall_", "threads_", "fastest_fp32_")
        for name in ("ratio", "low", "high", "other_ms", "reference_ms")
    },
}  # fmt: skip
"""What races of an earlier ptq lack; None there."""


def timings(content: Row) -> Sequence[Row]:
    """Every race of a report, by id, what it ran against, and batch."""
    races: Sequence[Row] = content["latency"]
    return races


def of_case(races: Sequence[Row], case_id: str) -> dict[int, Row]:
    """The races against FP32 of a case's graph, by batch size."""
    found = [race for race in races if race["against"] == FP32 and case_id in race["stands_for"]]
    return {race["batch"]: race for race in sorted(found, key=lambda race: race["batch"])}


def finding(race: Row) -> str | None:
    """Where clocks or threads tell different ratios, one line; None where they agree, and in an earlier report."""
    found = race.get("finding")
    return found if isinstance(found, str) else None


def on_threads(race: Row) -> str:
    """The ratio on all threads, in words; empty where it was not measured."""
    ratio, threads = race.get("threads_ratio"), race.get("threads")
    return f", {ratio:.3f} on {threads} threads" if isinstance(ratio, float) and isinstance(threads, int) else ""


def told(race: Row) -> str:
    """A race on one line."""
    return (
        f"{race['id']} batch {race['batch']}: {race['speedup']:.2f}x the speed of {race['against']} "
        f"({100 * race['confidence']:g} % {1 / race['high']:.2f} .. {1 / race['low']:.2f}), "
        f"{race['other_ms']:.3g} ms against {race['reference_ms']:.3g} ms; {race['executed']}; {race['verdict']}"
    )


@dataclass(frozen=True)
class Place:
    """Where a case stands among all of a workload that were timed at one batch size: `ratio` is its time / that of the
    fastest float model of any runtime, `ms` per call follows from it; `number` counts from 1.
    """

    workload: str
    batch: int
    number: int
    id: str
    ms: float
    ratio: float

    def __str__(self) -> str:
        where = f"{self.workload} batch {self.batch}, place {self.number}"
        return f"{where}: {self.id} {self.ms:.3g} ms, {self.ratio:.3f} of the time of the fastest fp32"


def places(races: Sequence[Row]) -> list[Place]:
    """All cases of all runtimes in one order, the fastest first, by workload and batch size.

    Each was raced in turns with the same float model, so that its place does not depend on when it ran; the float
    models of the runtimes take the places that their own races give them. Earlier reports have none.
    """
    found = sorted((race for race in races if race["against"] == FP32 and _in_the_race(race)), key=_course)
    return [place for course, group in groupby(found, key=_course) for place in _ordered(*course, list(group))]


def _in_the_race(race: Row) -> bool:
    times = (race.get("fastest_fp32_ratio"), race.get("fastest_fp32_reference_ms"))
    names = (race.get("fastest_fp32"), race.get("rival"), race.get("workload"))
    return all(isinstance(time, float) and time > 0 for time in times) and all(isinstance(name, str) for name in names)


def _course(race: Row) -> tuple[str, int]:
    return str(race["workload"]), int(race["batch"])


def _ordered(workload: str, batch: int, races: list[Row]) -> list[Place]:
    ratios = {str(race["id"]): float(race["fastest_fp32_ratio"]) for race in races}
    floats: dict[str, list[float]] = {}
    for race in races:
        floats.setdefault(str(race["rival"]), []).append(race["fastest_fp32_ratio"] / race["ratio"])
    ratios |= {name: median(several) for name, several in floats.items()}
    ratios |= {str(race["fastest_fp32"]): 1.0 for race in races}
    unit = median(float(race["fastest_fp32_reference_ms"]) for race in races)
    ranked = sorted(ratios.items(), key=lambda item: (item[1], item[0]))
    return [Place(workload, batch, at, name, ratio * unit, ratio) for at, (name, ratio) in enumerate(ranked, 1)]
