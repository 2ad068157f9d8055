"""Trend: a history as one page, a line a case, with the runs in which it changed marked and their commits named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ptq.files import write_text
from ptq.metrics.metric import SHARE
from ptq.report.changes import Series, Step
from ptq.report.history import Past
from ptq.report.html import environment
from ptq.report.scatter import axis

WIDTH, HEIGHT = 320, 40
"""Of the picture of a case, in pixels."""


@dataclass(frozen=True)
class Mark:
    """One run in a picture: where, what it says, and ``fail``, ``pass`` or nothing for worse, better, unchanged."""

    x: float
    y: float
    words: str
    tone: str


@dataclass(frozen=True)
class Trend:
    """One line of the page: what it is of, on which machine class, values in words, marks, and changes in words."""

    name: str
    machine: str
    first: str
    last: str
    marks: tuple[Mark, ...]
    changes: tuple[tuple[str, str], ...]

    @property
    def path(self) -> str:
        """The points of the line."""
        return " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in self.marks)


def page(runs: Sequence[Past], found: Sequence[Series]) -> str:
    """The page of a history, as `ptq.report.history.load` and `ptq.report.changes.series` give it."""
    trends = [_of_case(series) for series in found]
    untested = sorted({series.case for series in found if len(series.runs) > 1 and not series.steps})
    return environment().get_template("history.html.j2").render(
        runs=runs,
        trends=trends,
        ratios=_of_ratios(runs),
        changes=[(step.line(), step.worse) for series in found for step in series.changes],
        open=[step.line() for series in found if (step := series.regression) is not None],
        untested=untested,
        size=(WIDTH, HEIGHT),
    )  # fmt: skip


def write(path: Path, runs: Sequence[Past], found: Sequence[Series]) -> None:
    """Write the page, whole or not at all."""
    write_text(path, page(runs, found))


def _of_case(series: Series) -> Trend:
    fields = [run.cases[series.case] for run in series.runs]
    form = ".4f" if fields[-1]["unit"] == SHARE else ".4g"
    changed = {id(step.after): step for step in series.changes}
    words = [f"{run.name}, {run.date}: {each['value']:{form}}" for run, each in zip(series.runs, fields, strict=True)]
    tones = [_tone(changed.get(id(run))) for run in series.runs]
    marks = _marks([float(each["value"]) for each in fields], words, tones)
    told = tuple((step.line(), _tone(step)) for step in series.changes)
    first, last = (format(each["value"], form) for each in (fields[0], fields[-1]))
    return Trend(series.case, series.machine, first, last, marks, told)


def _of_ratios(runs: Sequence[Past]) -> list[Trend]:
    """Time ratios, a line each; no test marks them: their intervals are in each run's report."""
    by: dict[tuple[str, str], list[Past]] = {}
    for run in runs:
        for name in run.ratios:
            by.setdefault((name, run.machine), []).append(run)
    trends = []
    for (name, machine), found in sorted(by.items()):
        races = [run.ratios[name] for run in found]
        words = [
            f"{run.name}, {run.date}: {race['ratio']:.3f} [{race['low']:.3f}, {race['high']:.3f}]"
            for run, race in zip(found, races, strict=True)
        ]
        marks = _marks([race["ratio"] for race in races], words, [""] * len(found))
        trends.append(Trend(name, machine, f"{races[0]['ratio']:.3f}", f"{races[-1]['ratio']:.3f}", marks, ()))
    return trends


def _marks(values: Sequence[float], words: Sequence[str], tones: Sequence[str]) -> tuple[Mark, ...]:
    up = axis(values, HEIGHT - 5, 5)
    step = (WIDTH - 10) / max(len(values) - 1, 1)
    return tuple(
        Mark(5 + place * step, up.at(value), told, tone)
        for place, (value, told, tone) in enumerate(zip(values, words, tones, strict=True))
    )


def _tone(step: Step | None) -> str:
    return "" if step is None else "fail" if step.worse else "pass"
