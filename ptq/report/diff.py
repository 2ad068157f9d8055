"""Diff: what became of each case between two JSON reports.

A case is worse when its accuracy is significantly lower (as `ptq.reference` has it), its verdict fell (pass,
unresolved, fail), it newly fails its test, less of it runs in integer, or its time ratio rose beyond both intervals;
better when one of these turned the other way and none this way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptq.cases import Case
from ptq.reference import References
from ptq.result import FAIL, JUDGED, PASS, UNRESOLVED, Result

Row = Mapping[str, Any]
_RANK = {PASS: 0, UNRESOLVED: 1, FAIL: 2}


@dataclass(frozen=True)
class Diff:
    """One line a case, sorted by id; `same` counts the cases in which nothing moved beyond chance.

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
    return Diff(
        worse=tuple(worse),
        better=tuple(better),
        appeared=tuple(_value(after[name]) for name in sorted(after.keys() - before.keys())),
        vanished=tuple(f"{name}: {gone.get(name, 'no such case')}" for name in sorted(before.keys() - after.keys())),
        same=same,
    )


def _judged(content: Row) -> dict[str, Row]:
    return {each["id"]: each for each in content["results"] if each["verdict"] in JUDGED}


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
        times = {each["batch"]: each for each in then.get("latency") or []}
        for each in now.get("latency") or []:
            if (start := times.get(each["batch"])) is not None and each["low"] > start["high"]:
                first, last = (start, each) if into is fell else (each, start)
                into.append(f"time ratio at batch {each['batch']} {first['ratio']:.3f} -> {last['ratio']:.3f}")
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
