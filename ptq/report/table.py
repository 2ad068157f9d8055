"""The verdict table of a run, for a terminal."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptq.result import FAIL, PASS, Result

_COLOURS = {PASS: "green", FAIL: "bold red"}


def table(results: Sequence[Result], width: int = 140, color: bool = False) -> str:
    """One line a measured case, best first within a workload, then one line for each reason others were not run."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("workload", "backend", "dtype", "method", "weights"):
        shown.add_column(name, no_wrap=True, overflow="ellipsis")
    for name in ("accuracy", "fp32", "drop pp", "95 % interval", "n", "agree", "SQNR dB", "int", "kB", "verdict"):
        shown.add_column(name, justify="left" if name == "verdict" else "right", no_wrap=True)
    for each in sorted((each for each in results if each.judged), key=_order):
        shown.add_row(*_row(each))
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=color, color_system="standard" if color else None)
    if shown.row_count:
        console.print(shown)
    for (workload, reason), count in _not_run(results).items():
        console.print(Text(f"{workload}: {count} {'case' if count == 1 else 'cases'} {reason}"), soft_wrap=True)
    return output.getvalue()


def _order(each: Result) -> tuple[str, bool, float, str]:
    return each.case.workload, not each.case.is_float, -(each.value or 0.0), each.case.id


def _row(each: Result) -> list[Text]:
    case = each.case
    interval = "" if each.interval is None or case.is_float else f"{each.interval[0]:+.2f} .. {each.interval[1]:+.2f}"
    method = case.method if case.exclude == "none" else f"{case.method} {case.exclude}"
    cells = [
        case.workload,
        case.backend,
        case.dtype,
        "" if case.is_float else method,
        "" if case.is_float else case.granularity,
        f"{each.value:.4f}",
        f"{each.fp32_value:.4f}",
        f"{each.drop:+.2f}",
        interval,
        str(each.n),
        _number(each.agreement, ".4f"),
        _number(each.sqnr_db, ".1f"),
        _number(each.integer_share, ".2f"),
        _number(None if each.size_bytes is None else each.size_bytes / 1000, ".0f"),
    ]
    worse = bool((each.reference or {}).get("worse"))
    verdict = f"{each.verdict}, worse" if worse else each.verdict
    style = _COLOURS[FAIL] if worse else _COLOURS.get(each.verdict, "yellow")
    return [Text(cell) for cell in cells] + [Text(verdict, style=style)]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _not_run(results: Sequence[Result]) -> Counter[tuple[str, str]]:
    return Counter((each.case.workload, each.not_run) for each in results if not each.judged)
