"""The HTML report: one page that needs nothing else, made from the JSON report.

It holds what to ship, why others do not pass, a table of every case, and for each workload accuracy against size and
against time with the Pareto fronts, the drop per class as a heat map, and reference against now; then all that is
known of each case: what ran in integer, how it was calibrated, why it has its verdict, its layers where measured.

The page asks for nothing, and needs no script. Where there is one, the table sorts and filters, and the address keeps
how; the only script the page lets run is its own, by its digest. The page is ``templates/page.html.j2``; every text in
it is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptq.cases import FP32
from ptq.files import write_text
from ptq.report import unit
from ptq.report.findings import absent, complaints, counts, judged, untrue
from ptq.report.heatmap import Heatmap, heatmap, palette
from ptq.report.plain import plain
from ptq.report.ranking import TONES, standing, tone, verdict
from ptq.report.scatter import FRAME, Point, Scatter, number, scatter, style
from ptq.report.ship import ship
from ptq.report.timings import of_case, places, timings

if TYPE_CHECKING:
    import jinja2

Row = Mapping[str, Any]
FIELDS = ("workload", "backend", "dtype", "method", "verdict")
"""What the table can be filtered by."""


@dataclass(frozen=True)
class Entry:
    """One judged case: its place in the order of merit, its result, races by batch size, census and layers."""

    index: int
    row: Row
    races: Mapping[int, Row]
    census: Row | None
    layers: Row | None

    @property
    def fields(self) -> dict[str, str]:
        """By `FIELDS`."""
        return {**{name: str(self.row[name]) for name in FIELDS}, "verdict": standing(self.row)}

    def point(self, cost: float, sized: bool, race: Row | None = None) -> Point:
        """Its mark where it costs `cost`."""
        costs = None if race is None else (float(race["low"]), float(race["high"]))
        values = None if self.row["dtype"] == FP32 else unit.bounds(self.row)
        size = self.row["size_bytes"] if sized else None
        return Point(cost, self.row["value"], self.row["dtype"], _label(self.row), size, values, costs, self.index)


@dataclass(frozen=True)
class Section:
    """Of one workload: its judged cases, best first."""

    name: str
    entries: tuple[Entry, ...]

    @property
    def referenced(self) -> list[Entry]:
        """Cases that have a reference."""
        return [entry for entry in self.entries if entry.row["reference"]]

    @property
    def heatmap(self) -> Heatmap | None:
        """The drops per class of its quantized cases."""
        return heatmap([entry.row for entry in self.entries if entry.row["dtype"] != FP32])

    @property
    def figures(self) -> list[Scatter]:
        """Value against size, and against time for each batch size; the float case takes its own time."""
        first = self.entries[0].row
        metric, better = unit.of_value(first), bool(first["higher_is_better"])
        drawn = []
        sized = [entry for entry in self.entries if entry.row["size_bytes"]]
        if len(sized) > 1:
            points = [entry.point(entry.row["size_bytes"] / 1000, False) for entry in sized]
            drawn.append(scatter(points, "size, kB", metric, better))
        for batch in batches(self.entries):
            points = [
                entry.point(entry.races[batch]["ratio"] if batch in entry.races else 1.0, True, entry.races.get(batch))
                for entry in self.entries
                if batch in entry.races or entry.row["dtype"] == FP32
            ]
            drawn.append(scatter(points, f"time / FP32 time, batch {batch}", metric, better))
        return drawn


def batches(entries: Sequence[Entry]) -> list[int]:
    """Every batch size that was timed."""
    return sorted({batch for entry in entries for batch in entry.races})


def page(content: Row, layers: Mapping[str, Row] | None = None) -> str:
    """The page of a report, as `ptq.report.json.load` gives it; `layers` by case id, as `ptq.report.layers` does."""
    results: Sequence[Row] = content["results"]
    raced, censuses = timings(content), {row["id"]: row for row in content["structure"]}
    entries = [
        Entry(index, row, of_case(raced, row["id"]), censuses.get(row["id"]), (layers or {}).get(row["id"]))
        for index, row in enumerate(judged(results))
    ]
    groups = groupby(entries, key=lambda entry: str(entry.row["workload"]))
    tones = {**TONES, **{tone: tone for tone in TONES.values()}}
    from markupsafe import Markup

    script = _source("script.js.j2")
    return environment().get_template("page.html.j2").render(
        ships=ship(results, raced),
        counts=[(count, name, tones.get(name, "other")) for name, count in counts(results)],
        red=complaints(content, red=True),
        others=complaints(content, red=False),
        untrue=untrue(results),
        entries=entries,
        batches=batches(entries),
        one_metric=len({unit.of_value(entry.row) for entry in entries}) == 1,
        indices={entry.row["id"]: entry.index for entry in entries},
        choices={name: sorted({entry.fields[name] for entry in entries}) for name in FIELDS},
        sections=[Section(name, tuple(group)) for name, group in groups],
        raced=raced,
        places=places(raced),
        absent=absent(results),
        environment=[(name, _listed(value)) for name, value in sorted(content["environment"].items())],
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def write(path: Path, content: Row, layers: Mapping[str, Row] | None = None) -> None:
    """Write the page, whole or not at all."""
    write_text(path, page(content, layers))


def _source(name: str) -> str:
    return resources.files("ptq.report").joinpath("templates", name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """What renders the templates: every text escaped, every name known."""
    import jinja2

    made = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(_source),
        finalize=lambda value: plain(value) if type(value) is str else value,  # Markup is what a macro made
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        unit=unit, label=_label, number=number, style=style, tone=tone, verdict=verdict, frame=FRAME, FP32=FP32,
        palette=palette, listed=_listed, FIELDS=FIELDS,
    )  # fmt: skip
    made.filters["kb"] = lambda size: "" if size is None else f"{size / 1000:,.0f}"
    made.filters["px"] = lambda number: f"{number:.1f}".removesuffix(".0")
    made.filters["form"] = lambda value, form: "" if value is None else format(value, form)
    made.filters["key"] = lambda value: "" if value is None else f"{value:.9g}"
    return made


def _label(row: Row) -> str:
    """The case without its workload, which the section names."""
    return str(row["id"]).removeprefix(f"{row['workload']}-")


def _listed(value: object) -> str:
    """By name, as a report that was read from its file has it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_listed(part)}" for name, part in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(map(_listed, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
