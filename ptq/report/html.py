"""The HTML report: one page that needs nothing else, made from the JSON report.

It holds what to ship, the verdict table, accuracy against size and against time with the Pareto fronts, the drop per
class as a heat map, reference against now, and what was timed. No script and no request: the page forbids itself both.
The page is ``templates/page.html.j2``; every text in it is escaped.
"""

from __future__ import annotations

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
from ptq.report.heatmap import Heatmap, heatmap
from ptq.report.plain import plain
from ptq.report.ranking import TONES, tone, verdict
from ptq.report.scatter import FRAME, Point, Scatter, number, scatter, style
from ptq.report.ship import ship
from ptq.report.timings import of_case, places, timings

if TYPE_CHECKING:
    import jinja2

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """Of one workload: its judged results, best first, and the races of each by batch size."""

    name: str
    results: tuple[Row, ...]
    races: tuple[Mapping[int, Row], ...]

    @property
    def batches(self) -> list[int]:
        """Every batch size that was timed."""
        return sorted({batch for found in self.races for batch in found})

    @property
    def referenced(self) -> list[Row]:
        """Results that have a reference."""
        return [row for row in self.results if row["reference"]]

    @property
    def heatmap(self) -> Heatmap | None:
        """The drops per class of its quantized cases."""
        return heatmap([row for row in self.results if row["dtype"] != FP32])

    @property
    def figures(self) -> list[Scatter]:
        """Value against size, and against time for each batch size; the float case takes its own time."""
        first = self.results[0]
        metric, better = unit.of_value(first), bool(first["higher_is_better"])
        drawn = []
        sized = [row for row in self.results if row["size_bytes"]]
        if len(sized) > 1:
            points = [_point(row, row["size_bytes"] / 1000) for row in sized]
            drawn.append(scatter(points, "size, kB", metric, better))
        for batch in self.batches:
            costs = [
                (row, races[batch]["ratio"] if batch in races else 1.0)
                for row, races in zip(self.results, self.races, strict=True)
                if batch in races or row["dtype"] == FP32
            ]
            points = [_point(row, ratio, row["size_bytes"]) for row, ratio in costs]
            drawn.append(scatter(points, f"time / FP32 time, batch {batch}", metric, better))
        return drawn


def page(content: Row) -> str:
    """The page of a report, as `ptq.report.json.load` gives it."""
    results: Sequence[Row] = content["results"]
    raced = timings(content)
    sections = []
    for name, group in groupby(judged(results), key=lambda row: str(row["workload"])):
        rows = tuple(group)
        sections.append(Section(name, rows, tuple(of_case(raced, row["id"]) for row in rows)))
    tones = {**TONES, **{tone: tone for tone in TONES.values()}}
    return _environment().get_template("page.html.j2").render(
        ships=ship(results, raced),
        counts=[(count, name, tones.get(name, "other")) for name, count in counts(results)],
        complaints=complaints(content),
        untrue=untrue(results),
        sections=sections,
        raced=raced,
        places=places(raced),
        absent=absent(results),
        environment=[(name, _listed(value)) for name, value in sorted(content["environment"].items())],
    )  # fmt: skip


def write(path: Path, content: Row) -> None:
    """Write the page, whole or not at all."""
    write_text(path, page(content))


def _environment() -> jinja2.Environment:
    import jinja2

    def source(name: str) -> str:
        return resources.files("ptq.report").joinpath("templates", name).read_text(encoding="utf-8")

    made = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(source),
        finalize=lambda value: plain(value) if type(value) is str else value,  # Markup is what a macro made
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        unit=unit, label=_label, number=number, style=style, tone=tone, verdict=verdict, frame=FRAME, FP32=FP32
    )
    made.filters["kb"] = lambda size: "" if size is None else f"{size / 1000:,.0f}"
    made.filters["px"] = lambda number: f"{number:.1f}"
    made.filters["form"] = lambda value, form: "" if value is None else format(value, form)
    return made


def _label(row: Row) -> str:
    """The case without its workload, which the section names."""
    return str(row["id"]).removeprefix(f"{row['workload']}-")


def _point(row: Row, cost: float, size: float | None = None) -> Point:
    return Point(cost, row["value"], row["dtype"], _label(row), size)


def _listed(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in sorted(value.items()))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
