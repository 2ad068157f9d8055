"""Diff: what became of each case between two JSON reports.

A case is worse when its accuracy is significantly lower (as `ptq.gate.reference` has it), its verdict fell (pass,
unresolved, fail), it newly fails its test, or less of it runs in integer; better when one of these turned the other way
and none this way. A time ratio to FP32 is worse when its interval lies above the old one. A case that is no longer
judged is a regression too: whoever removes a case from the run must say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptq.cases import FP32
from ptq.gate.reference import References
from ptq.gate.result import FAIL, JUDGED, PASS, UNRESOLVED, Result
from ptq.report import unit
from ptq.report.plain import plain
from ptq.report.ranking import standing
from ptq.report.timings import timings

Row = Mapping[str, Any]
_RANK = {PASS: 0, UNRESOLVED: 1, FAIL: 2}


@dataclass(frozen=True)
class Diff:
    """One line a case or a timing; `same` counts those that moved by no more than chance.

    `appeared` and `vanished` are cases judged in only one of the two: one that is no longer run has vanished, whatever
    the reason.
    """

    worse: tuple[str, ...]
    better: tuple[str, ...]
    appeared: tuple[str, ...]
    vanished: tuple[str, ...]
    same: int

    @property
    def regressed(self) -> bool:
        """Whether the new report is to be refused: something is worse or vanished."""
        return bool(self.worse or self.vanished)

    def lines(self) -> list[str]:
        """The diff as text, worst first."""
        kinds = {"worse": self.worse, "vanished": self.vanished, "better": self.better, "appeared": self.appeared}
        told = [plain(f"{kind}: {line}") for kind, lines in kinds.items() for line in lines]
        return [*told, ", ".join(f"{len(lines)} {kind}" for kind, lines in kinds.items()) + f", {self.same} the same"]


def diff(old: Row, new: Row) -> Diff:
    """Compare two reports, as `ptq.report.json.load` gives them."""
    before, after = _judged(old), _judged(new)
    gone = {row["id"]: f"{standing(row)}: {row['reason'].removeprefix(f'{standing(row)}: ')}" for row in new["results"]}
    worse, better, same = [], [], 0
    for name in sorted(before.keys() & after.keys()):
        fell, rose = _moves(before[name], after[name])
        if fell:
            worse.append(f"{name}: {'; '.join(fell)}")
        elif rose:
            better.append(f"{name}: {'; '.join(rose)}")
        else:
            same += 1
    before_times, after_times = _times(old), _times(new)
    for key in sorted(before_times.keys() & after_times.keys()):
        start, end = before_times[key], after_times[key]
        line = f"{key[0]}: time ratio at batch {key[1]} {start['ratio']:.3f} -> {end['ratio']:.3f}"
        if end["low"] > start["high"]:
            worse.append(line)
        elif end["high"] < start["low"]:
            better.append(line)
        else:
            same += 1
    return Diff(
        worse=tuple(worse),
        better=tuple(better),
        appeared=tuple(_value(after[name]) for name in sorted(after.keys() - before.keys())),
        vanished=tuple(f"{name}: {gone.get(name, 'no such case')}" for name in sorted(before.keys() - after.keys())),
        same=same,
    )


def _judged(content: Row) -> dict[str, Row]:
    return {row["id"]: row for row in content["results"] if row["verdict"] in JUDGED}


def _times(content: Row) -> dict[tuple[str, int], Row]:
    """Time ratios to FP32; those to another revision are two different races in two reports."""
    return {(race["id"], race["batch"]): race for race in timings(content) if race["against"] == FP32}


def _moves(old: Row, new: Row) -> tuple[list[str], list[str]]:
    """What became worse and what better, in words; values of two metrics cannot be compared, so that is worse."""
    if (was := unit.of_value(old)) != (now_is := unit.of_value(new)):
        return [f"metric {was} -> {now_is}: values cannot be compared"], []
    fell: list[str] = []
    rose: list[str] = []
    for into, then, now in ((fell, old, new), (rose, new, old)):
        if _significantly_lower(then, now):
            then_now = f"{unit.value(old, old['value'])} -> {unit.value(new, new['value'])}"
            into.append(f"{unit.of_value(new)} {then_now} (n={new['n']})")
        if _RANK[now["verdict"]] > _RANK[then["verdict"]]:
            into.append(f"{old['verdict']} -> {new['verdict']}: {new['reason']}")
        elif now["red"] and not then["red"]:
            into.append(f"red {old['red']} -> {new['red']}: {new['reason']}")
        before, after = then["integer_share"], now["integer_share"]
        if before is not None and after is not None and after < before:
            into.append(f"in integer {old['integer_share']:.0%} -> {new['integer_share']:.0%}")
    return fell, rose


def _significantly_lower(then: Row, now: Row) -> bool:
    start, end = Result.from_json(then), Result.from_json(now)
    comparison = References(Path()).updated([start], {}, {start.case.id}).compare(end)
    return comparison is not None and comparison.worse


def _value(row: Row) -> str:
    return f"{row['id']}: {row['verdict']}, {unit.of_value(row)} {unit.value(row, row['value'])} (n={row['n']})"
