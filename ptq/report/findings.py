"""Findings: what reports say beside their tables: counts, why not pass, what was not run, what runs in float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ptq.cases import FP32
from ptq.gate.result import GIVEN, JUDGED, NOT_INSTALLED, PASS
from ptq.gate.tally import Tally
from ptq.report.plain import plain
from ptq.report.ranking import order, standing, worse
from ptq.report.timings import finding, places, timings, told

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
    """Why cases were not measured: one line for all absent frameworks, one for each other reason."""
    away: dict[str, list[Row]] = {}
    for row in results:
        if row["verdict"] not in JUDGED:
            away.setdefault(f"{standing(row)}: {_reason(row)}", []).append(row)
    lines = {why: f"{_cases(rows)} of {_names(rows, 'workload')} {why}" for why, rows in sorted(away.items())}
    missing = [rows for rows in away.values() if rows[0]["verdict"] == NOT_INSTALLED]
    if missing:
        frameworks = sorted(f"{_names(rows, 'backend')} ({_reason(rows[0])})" for rows in missing)
        told = f"{_cases([row for rows in missing for row in rows])} not installed: {'; '.join(frameworks)}"
        lines = {NOT_INSTALLED: told} | {why: line for why, line in lines.items() if away[why] not in missing}
    return list(lines.values())


def unmeasured(absent: Mapping[str, int], results: Sequence[Row]) -> list[str]:
    """Why tests that leave no result did not run: `absent` counts reasons; those that `results` tell are left out."""
    told = {f"{standing(row)}: {_reason(row)}" for row in results if row["verdict"] not in JUDGED}
    open_ = {why: count for why, count in sorted(absent.items()) if why not in told}
    missing = [why for why in open_ if why.startswith("not installed: ")]
    lines = [f"{count} not run: {why}" for why, count in open_.items() if why not in missing]
    if missing:
        whole = "; ".join(why.removeprefix("not installed: ") for why in missing)
        lines.insert(0, f"{sum(open_[why] for why in missing)} not run: not installed: {whole}")
    return lines


def in_float(structure: Sequence[Row]) -> list[str]:
    """What of quantized cases does not run in integer, equal ones on one line; one line for all the others."""
    quantized = [row for row in structure if row["dtype"] != FP32]
    told: dict[tuple[str, str], list[str]] = {}
    for row in sorted(quantized, key=lambda row: str(row["id"])):
        if row["verdict"] != PASS or row["integer_share"] < 1:
            told.setdefault((row["workload"], _float_part(row)), []).append(row["id"])
    lines = [
        f"{ids[0]}{f' and {len(ids) - 1} more like it' if len(ids) > 1 else ''}: {what}"
        for (_, what), ids in told.items()
    ]
    whole = len(quantized) - sum(map(len, told.values()))
    return lines + [f"{whole} cases run all of their compute nodes in integer"] * (whole > 0)


def _float_part(row: Row) -> str:
    if row["verdict"] != PASS:
        return str(row["reason"]).removeprefix(f"{row['id']}: ")
    floating, integer = sum(row["floating"].values()), sum(row["integer"].values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(row["floating"].items()))
    why = row["simulated"] or row["cause"]
    return f"{floating} of {floating + integer} compute nodes in float: {kinds}" + (f"; {why}" if why else "")


def _reason(row: Row) -> str:
    return str(row["reason"]).removeprefix(f"{standing(row)}: ")


def _cases(rows: Sequence[Row]) -> str:
    return f"{len(rows)} case{'' if len(rows) == 1 else 's'}"


def _names(rows: Sequence[Row], field: str) -> str:
    return ", ".join(sorted({row[field] for row in rows}))


def untrue(results: Sequence[Row]) -> list[str]:
    """One line for each workload whose measured results have no truth but the float model's answers."""
    names = {row["workload"] for row in results if row["verdict"] in JUDGED and row["truth"] != GIVEN}
    return [f"{name}: no truth was given: values are against the float model's own answers" for name in sorted(names)]


def lines(tally: Tally) -> list[str]:
    """What was timed, what does not run in integer and what was not run: a line each, as the terminal shows them."""
    races = sorted(tally.timings.values(), key=lambda race: (race["id"], race["against"], race["batch"]))
    rows = tally.rows()
    timed = [told(race) for race in races] + [line for race in races if (line := finding(race))]
    timed += map(str, places(races))
    return [plain(line) for line in (*timed, *in_float(rows["structure"]), *unmeasured(tally.absent, rows["results"]))]
