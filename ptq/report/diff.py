"""Diff: what became of each case between two JSON reports.

A case is worse when its accuracy is significantly lower (as `ptq.reference` has it), its verdict fell (pass,
unresolved, fail), it newly fails its test, or less of it runs in integer; better when one of these turned the other way
and none this way. A time ratio to FP32 is worse when its interval lies above the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptq.cases import FP32, Case
from ptq.reference import References
from ptq.report.timings import timings
from ptq.result import FAIL, JUDGED, PASS, UNRESOLVED, Result

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

    def lines(self) -> list[str]:
        """The diff as text, worst first."""
        told = [
            f"{name}: {line}" for name in ("worse", "vanished", "better", "appeared") for line in getattr(self, name)
        ]
        counts = ", ".join(f"{len(getattr(self, each))} {each}" for each in ("worse", "better", "appeared", "vanished"))
        return [*told, f"{counts}, {self.same} the same"]


def diff(old: Row, new: Row) -> Diff:
    """Compare two reports, as `ptq.report.json.read` gives them."""
    before, after = _judged(old), _judged(new)
    gone = {each["id"]: _absence(each) for each in new["results"]}
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
    return {each["id"]: each for each in content["results"] if each["verdict"] in JUDGED}


def _times(content: Row) -> dict[tuple[str, int], Row]:
    """Time ratios to FP32; those to another revision are two different races in two reports."""
    return {(each["id"], each["batch"]): each for each in timings(content) if each["against"] == FP32}


def _moves(old: Row, new: Row) -> tuple[list[str], list[str]]:
    """What became worse and what better, in words."""
    fell: list[str] = []
    rose: list[str] = []
    for into, then, now in ((fell, old, new), (rose, new, old)):
        if _significantly_lower(then, now):
            into.append(f"{new['metric']} {old['value']:.4f} -> {new['value']:.4f} (n={new['n']})")
        if _RANK[now["verdict"]] > _RANK[then["verdict"]]:
            into.append(f"{old['verdict']} -> {new['verdict']}: {new['reason']}")
        elif now.get("red") and not then.get("red"):
            into.append(f"red {bool(old.get('red'))} -> {bool(new.get('red'))}: {new['reason']}")
        before, after = then.get("integer_share"), now.get("integer_share")
        if before is not None and after is not None and after < before:
            into.append(f"in integer {old['integer_share']:.0%} -> {new['integer_share']:.0%}")
    return fell, rose


def _significantly_lower(then: Row, now: Row) -> bool:
    start, end = _result(then), _result(now)
    comparison = References(Path()).updated([start], {}, {start.case.id}).compare(end)
    return comparison is not None and comparison.worse


def _result(row: Row) -> Result:
    known = {"id", *Result.__dataclass_fields__, *Case.__dataclass_fields__}
    return Result.from_json({key: value for key, value in row.items() if key in known})  # newer reports hold more


def _absence(row: Row) -> str:
    words = str(row["verdict"]).replace("_", " ")
    return f"{words}: {str(row['reason']).removeprefix(f'{words}: ')}"


def _value(row: Row) -> str:
    return f"{row['id']}: {row['verdict']}, {row['metric']} {row['value']:.4f} (n={row['n']})"
