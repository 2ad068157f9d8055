"""The heat map of drops per class: which classes pay for quantization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptq.metrics.metric import SHARE
from ptq.report import unit

Row = Mapping[str, Any]
MOST_CLASSES = 20
_WORSE, _BETTER = (178, 24, 43), (33, 102, 172)
"""The ends of a diverging scale, red and blue, both dark enough to print."""


@dataclass(frozen=True)
class Cell:
    """What a cell says and the colours it says it in, ``#rrggbb``."""

    text: str
    paper: str
    ink: str


@dataclass(frozen=True)
class Heatmap:
    """A line of `cells` for each of `results`, one a class of `classes`; None where a result lacks the class.

    `scale` is the drop of full colour, as text; `of` how many classes there are.
    """

    results: tuple[Row, ...]
    classes: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]
    scale: str
    of: int


def drops(row: Row) -> dict[str, float]:
    """Drop of each class against FP32, in the unit of the result's drop, positive is worse."""
    now, then = row["per_class"], row["fp32_per_class"]
    return {name: unit.loss(row, then[name], now[name]) for name in now if name in then}


def heatmap(results: Sequence[Row]) -> Heatmap | None:
    """The heat map of results of one metric; None when none has classes.

    With more than `MOST_CLASSES` classes, those with the largest drops either way.
    """
    found = [(row, drops(row)) for row in results if drops(row)]
    if not found:
        return None
    classes = sorted({name for _, lost in found for name in lost})  # as the JSON report has them
    extreme = {name: max(abs(lost.get(name, 0.0)) for _, lost in found) for name in classes}
    shown = set(sorted(classes, key=lambda name: -extreme[name])[:MOST_CLASSES])
    columns = tuple(name for name in classes if name in shown)
    scale = max(extreme.values()) or 1.0
    form = "+.1f" if found[0][0]["unit"] == SHARE else "+.2g"
    cells = [tuple(_cell(lost[name], scale, form) if name in lost else None for name in columns) for _, lost in found]
    full = format(scale, form).removeprefix("+")
    return Heatmap(tuple(row for row, _ in found), columns, tuple(cells), full, len(classes))


def shade(drop: float, scale: float) -> str:
    """The colour of a drop, white at 0, full at `scale`, as ``#rrggbb``."""
    share = min(abs(drop) / scale, 1.0)
    end = _WORSE if drop > 0 else _BETTER
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in end)


def _cell(drop: float, scale: float, form: str) -> Cell:
    text = format(drop, form)
    return Cell("0" if float(text) == 0 else text, shade(drop, scale), "#fff" if abs(drop) / scale > 0.55 else "#000")
