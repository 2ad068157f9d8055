"""The verdict table of a run, for a terminal."""

from __future__ import annotations

import io
from collections import Counter
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
from ptq.report.findings import judged, untrue
from ptq.report.plain import plain
from ptq.report.ranking import tone, verdict
from ptq.report.ship import ship

Row = Mapping[str, Any]
_COLOURS = {"pass": "green", "unresolved": "yellow", "fail": "bold red"}
_CASE = ("workload", "backend", "dtype", "method", "weights")
_LEAST_NEEDED = ("n", "fp32", "kB", "int", "SQNR dB", "interval", "agree")
"""The columns that go where the table is too wide, the first first."""


def table(results: Sequence[Result], width: int = 140, color: bool = False, timings: Sequence[Row] = ()) -> str:
    """A line a measured case, best first within a workload; a line for each reason others were not run; what to ship.

    `width` in characters: columns are left out until lines fit, then the case is told by its id alone. Value, drop and
    verdict stay, and no word is cut: lines are rather longer than `width`. `timings` are the objects of the report's
    ``latency``. A metric that is no share gets a table of its own, with its unit.
    """
    rows = [result.as_json() for result in results]
    output = io.StringIO()
    console = Console(file=output, width=10_000, force_terminal=color, color_system="standard" if color else None)
    for _, group in groupby(sorted(judged(rows), key=_kind), key=_kind):
        shown = list(group)
        console.print(_drawn(shown, [_cells(row) for row in shown], width))
    absent = Counter((result.case.workload, result.not_run) for result in results if not result.judged)
    lines = [
        f"{workload}: {count} {'case' if count == 1 else 'cases'} {why}" for (workload, why), count in absent.items()
    ]
    for line in [*lines, *untrue(rows), *ship(rows, timings)]:
        console.print(Text(plain(line)), soft_wrap=True)
    return output.getvalue()


def _drawn(rows: Sequence[Row], cells: Sequence[Mapping[str, str]], width: int) -> Table:
    """The table of the columns that fit."""
    widths = {name: 2 + max(cell_len(name), *(cell_len(texts[name]) for texts in cells)) for name in cells[0]}
    columns = [name for name in widths if name != "case"]
    for name in _LEAST_NEEDED:
        if sum(widths[column] for column in columns) - 2 > width:  # no gap after the last
            columns.remove(name)
    if sum(widths[column] for column in columns) - 2 > width:
        columns = ["case", *(name for name in columns if name not in _CASE)]
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(Text(name), justify="left" if name in ("case", *_CASE, "verdict") else "right", no_wrap=True)
    for row, texts in zip(rows, cells, strict=True):
        made.add_row(*(Text(texts[name], style=_COLOURS[tone(row)] if name == "verdict" else "") for name in columns))
    return made


def _kind(row: Row) -> tuple[str, str]:
    """Shares of any name go into one table; another metric needs its unit in the heading."""
    return ("", "") if row["unit"] == SHARE else (row["metric"], row["unit"])


def _cells(row: Row) -> dict[str, str]:
    quantized = row["dtype"] != FP32
    interval = row["interval"] if quantized else None
    size = row["size_bytes"]
    share = row["unit"] == SHARE
    return {
        "case": row["id"],
        "workload": row["workload"],
        "backend": row["backend"],
        "dtype": row["dtype"],
        "method": " ".join(word for word in (row["method"], row["exclude"]) if word != NONE),
        "weights": row["granularity"] if quantized else "",
        "accuracy" if share else plain(unit.of_value(row)): unit.value(row, row["value"]),
        "fp32": unit.value(row, row["fp32_value"]),
        "drop pp" if share else plain(f"drop {unit.of_drop(row)}"): unit.drop(row, row["drop"]),
        "interval": "" if not interval else " .. ".join(unit.drop(row, bound) for bound in interval),
        "n": str(row["n"]),
        "agree": _number(row["agreement"], ".4f"),
        "SQNR dB": _number(row["sqnr_db"], ".1f"),
        "int": _number(row["integer_share"], ".2f"),
        "kB": _number(None if size is None else size / 1000, ".0f"),
        "verdict": verdict(row),
    }


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
