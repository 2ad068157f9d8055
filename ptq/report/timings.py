"""Timings: the races of a report, and which of them are of which results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    other_ms: float
    reference_ms: float
    executed: str
    verdict: str
    reason: str
    red: bool


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
