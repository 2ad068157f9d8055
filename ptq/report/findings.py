"""Findings: what every report says beside its tables: counts, why not pass, what was not run, where truth lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ptq.gate.result import GIVEN, JUDGED, PASS
from ptq.report.ranking import order, standing, worse
from ptq.report.timings import finding, timings

Row = Mapping[str, Any]


def judged(results: Sequence[Row]) -> list[Row]:
    """Results that were measured, in the order of `ptq.report.ranking`."""
    return sorted((row for row in results if row["verdict"] in JUDGED), key=order)


def counts(results: Sequence[Row]) -> list[tuple[str, int]]:
    """How many results have each standing, by name."""
    return sorted(Counter(standing(row) for row in results).items())


def complaints(content: Row, red: bool | None = None) -> list[str]:
    """Why results and races of a report do not pass, which are worse than their reference, where clocks differ.

    `red`: of those that fail their test alone, or of the others alone.
    """
    found = [row for row in content["results"] if row["verdict"] in JUDGED]
    wanted = [row for row in [*found, *timings(content)] if red is None or bool(row["red"]) == red]
    told = [row["reason"] for row in wanted if row["verdict"] != PASS and row["reason"]]
    told += [row["reference"]["line"] for row in wanted if worse(row)]
    return told + [line for race in wanted if (line := finding(race)) is not None]


def absent(results: Sequence[Row]) -> list[str]:
    """One line for each reason why cases of a workload's backend were not measured."""
    counted = Counter(
        (row["workload"], row["backend"], standing(row), str(row["reason"]).removeprefix(f"{standing(row)}: "))
        for row in results
        if row["verdict"] not in JUDGED
    )
    return [
        f"{workload}, {backend}: {count} {words}: {reason}"
        for (workload, backend, words, reason), count in sorted(counted.items())
    ]


def untrue(results: Sequence[Row]) -> list[str]:
    """One line for each workload whose measured results have no truth but the float model's answers."""
    names = {row["workload"] for row in results if row["verdict"] in JUDGED and row["truth"] != GIVEN}
    return [f"{name}: no truth was given: values are against the float model's own answers" for name in sorted(names)]
