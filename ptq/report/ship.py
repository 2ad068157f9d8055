"""Ship: which case of each workload to ship, in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ptq.cases import FP32
from ptq.gate.result import GIVEN, JUDGED, PASS
from ptq.report import unit
from ptq.report.ranking import merit
from ptq.report.timings import finding, of_case

Row = Mapping[str, Any]


def ship(results: Sequence[Row], timings: Sequence[Row] = ()) -> list[str]:
    """One line a judged workload: its best passing quantized case, or that none passes.

    `results` as `Result.as_json` gives them, `timings` the objects of the report's ``latency``. Passing: the verdict is
    ``pass``, and neither the result nor a race of its graph is red. Best: what runs mostly in float goes last, before
    it what is slower than the float model wherever it was raced, then the order of `ptq.report.ranking.merit`. A drop
    is positive when accuracy is lost.
    """
    judged = [row for row in results if row["verdict"] in JUDGED]
    red = {case_id for race in timings if race["red"] for case_id in race["stands_for"]}
    lines = []
    for workload in sorted({row["workload"] for row in judged}):
        quantized = [row for row in judged if row["workload"] == workload and row["dtype"] != FP32]
        passing = [row for row in quantized if row["verdict"] == PASS and not row["red"] and row["id"] not in red]
        if passing:
            best = min(passing, key=lambda row: (_in_vain(row, of_case(timings, row["id"])), *merit(row), row["id"]))
            lines.append(f"ship {best['id']}: {', '.join(_facts(best, of_case(timings, best['id'])))}")
        else:
            lines.append(f"{workload}: ship nothing: no quantized case {'passes' if quantized else 'was judged'}")
    return lines


def _in_vain(row: Row, races: Mapping[int, Row]) -> tuple[bool, bool]:
    """Whether a case runs mostly in float, or nobody knows; whether it is slower wherever it was raced."""
    return (row["integer_share"] or 0.0) < 0.5, bool(races) and all(race["low"] >= 1 for race in races.values())


def _facts(row: Row, races: Mapping[int, Row]) -> list[str]:
    within = unit.interval(row, ", ")
    facts = [f"drop {unit.drop(row, row['drop'])} {unit.of_drop(row)}" + (f" [{within}]" if within else "")]
    if not row.get("has_drop", True):
        facts = [f"{unit.value(row, row['value'])} {row['unit']}"]
    if row["agreement"] is not None:
        facts.append(f"agreement {row['agreement']:.4f}")
    if row["size_bytes"] and row["fp32_size_bytes"]:
        facts.append(_times(row["fp32_size_bytes"] / row["size_bytes"], "smaller", "larger"))
    for batch, race in races.items():
        apart = "" if finding(race) is None else " by processor time, but not by the wall clock or on all threads"
        facts.append(f"{_times(1 / race['ratio'], 'faster', 'slower')} at batch {batch}{apart}")
    if row["integer_share"] != 1:
        share = row["integer_share"]
        facts.append("integer share unknown" if share is None else f"{math.floor(100 * share)} % in integer")
    if row["truth"] != GIVEN:
        facts.append("against the float model's own answers")
    return facts


def _times(factor: float, more: str, less: str) -> str:
    return f"{factor:.1f}x {more}" if factor >= 1 else f"{1 / factor:.1f}x {less}"
