"""The verdict table of a run, for a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptq.cases import FP32, NONE
from ptq.gate.result import Result
from ptq.metrics.metric import SHARE
from ptq.report import unit
from ptq.report.findings import absent, judged, untrue
from ptq.report.plain import plain
from ptq.report.ranking import tone, verdict
from ptq.report.timings import of_case

Row = Mapping[str, Any]
_COLOURS = {"pass": "green", "unresolved": "yellow", "fail": "bold red"}
_LEAST_NEEDED = ("n", "fp32", "kB", "SQNR dB", "int", "interval", "agree", "cosine")
"""The columns that go where the table is too wide, the first first; before them the speeds, the largest batch first."""
_FIELDS = ("backend", "dtype", "method", "granularity", "exclude")
_LEFT = ("case", "verdict")
_FOLDED = 40
"""Characters that the name of folded cases may have: they never widen a table beyond that."""


def table(results: Sequence[Result], width: int = 140, color: bool = False, timings: Sequence[Row] = ()) -> str:
    """A table a workload: a line a measured case, best first, float cases last; then why others were not run.

    `width` in characters: columns are left out until lines fit, no word is cut, and case, value, drop and verdict stay.
    Cases that agree in every figure and differ in one field of their id share a line. `timings` are the objects of the
    report's ``latency``.
    """
    rows = [result.as_json() for result in results]
    output = io.StringIO()
    console = Console(file=output, width=10_000, force_terminal=color, color_system="standard" if color else None)
    for (workload, *_), group in groupby(sorted(judged(rows), key=_kind), key=_kind):
        shown = [(row, of_case(timings, row["id"])) for row in sorted(group, key=lambda row: row["dtype"] == FP32)]
        batches = sorted({batch for _, races in shown for batch in races})
        lines = _folded([(row, _cells(row, races, batches)) for row, races in shown])
        same = {name: lines[0][1][name] for name in ("n", "fp32") if len({cells[name] for _, cells in lines}) == 1}
        facts = ", ".join(f"{name} {value}" for name, value in same.items())
        console.print(Text(plain(f"{workload}: {facts}" if facts else workload), style="bold" if color else ""))
        console.print(_drawn(lines, same, width))
    for line in [*absent(rows), *untrue(rows)]:
        console.print(Text(plain(line)), soft_wrap=True)
    return output.getvalue()


def _folded(lines: Sequence[tuple[Row, dict[str, str]]]) -> list[tuple[Row, dict[str, str]]]:
    """With cases of equal figures that differ in one field of their id as one, in the place of the best of them."""
    kept: list[tuple[Row, dict[str, str], dict[str, list[str]]]] = []
    for row, cells in lines:
        for _, shown, fields in kept:
            names = [name for name in _FIELDS if row[name] not in fields[name]]
            varied = [name for name in _FIELDS if len(fields[name]) > 1]
            if {**cells, "case": ""} != {**shown, "case": ""} or len(names) != 1 or varied not in ([], names):
                continue
            folded = {**fields, names[0]: [*fields[names[0]], row[names[0]]]}
            label = plain(_label(folded))
            if len(label) <= _FOLDED:
                fields.update(folded)
                shown["case"] = label
                break
        else:
            kept.append((row, dict(cells), {name: [row[name]] for name in _FIELDS}))
    return [(row, cells) for row, cells, _ in kept]


def _label(fields: Mapping[str, Sequence[str]]) -> str:
    """The id without its workload, with braces around what differs; what is left out of an id is written out there."""
    usual = {"method": NONE, "granularity": "tensor", "exclude": NONE}
    parts = []
    for name in _FIELDS:
        if len(fields[name]) > 1:
            parts.append(f"{{{','.join(fields[name])}}}")
        elif fields[name][0] != usual.get(name):
            parts.append(fields[name][0])
    return "-".join(parts)


def _drawn(lines: Sequence[tuple[Row, Mapping[str, str]]], same: Mapping[str, str], width: int) -> Table:
    """The table of the columns that fit; those of `same` are told already."""
    first = lines[0][1]
    widths = {name: 2 + max(cell_len(name), *(cell_len(cells[name]) for _, cells in lines)) for name in first}
    columns = [name for name in first if name not in same and any(cells[name] for _, cells in lines)]
    speeds = sorted((name for name in columns if name.startswith("x b")), key=lambda name: -int(name[3:]))
    for name in (*speeds, *_LEAST_NEEDED):
        if name in columns and sum(widths[column] for column in columns) - 2 > width:  # no gap after the last
            columns.remove(name)
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(Text(name), justify="left" if name in _LEFT else "right", no_wrap=True)
    # a cell of many lines, not a row a case: rich takes 1 ms for a row
    tones = [_COLOURS[tone(row)] for row, _ in lines]
    made.add_row(
        *(
            Text("\n").join(
                Text(cells[name], style=style if name == "verdict" else "")
                for style, (_, cells) in zip(tones, lines, strict=True)
            )
            for name in columns
        )
    )
    return made


def _kind(row: Row) -> tuple[str, str, str]:
    return row["workload"], row["metric"], row["unit"]


def _cells(row: Row, races: Mapping[int, Row], batches: Sequence[int]) -> dict[str, str]:
    quantized = row["dtype"] != FP32
    size = row["size_bytes"]
    share = row["unit"] == SHARE
    return {
        "case": plain(_label({name: [row[name]] for name in _FIELDS})),
        plain(unit.of_value(row)): unit.value(row, row["value"]),
        "fp32": unit.value(row, row["fp32_value"]),
        "drop pp" if share else plain(f"drop {unit.of_drop(row)}"): unit.drop(row, row["drop"]),
        "interval": unit.interval(row, " .. ") if quantized else "",
        "n": str(row["n"]),
        "agree": _number(row["agreement"], ".4f"),
        "cosine": _number(row["cosine"] if row["agreement"] is None else None, ".4f"),
        "SQNR dB": _number(row["sqnr_db"], ".1f"),
        "int": _number(row["integer_share"], ".2f"),
        "kB": _number(None if size is None else size / 1000, ".0f"),
        **{f"x b{batch}": f"{1 / races[batch]['ratio']:.2f}" if batch in races else "" for batch in batches},
        "verdict": verdict(row),
    }


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
