"""The heat map of drops per class: which classes pay for quantization."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptq.metrics.metric import SHARE
from ptq.report import unit

Row = Mapping[str, Any]
MOST_CLASSES = 20
LEVELS = 5
"""Steps of colour from no drop to the largest, each way."""
_WORSE, _BETTER = (178, 24, 43), (33, 102, 172)
"""The ends of a diverging scale, red and blue, both dark enough to print."""
_LIGHT, _DARK = (255, 255, 255), (20, 23, 26)


@dataclass(frozen=True)
class Cell:
    """What a cell says, and its level in -`LEVELS`..`LEVELS`: positive is worse, 0 no colour."""

    text: str
    level: int


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


def shade(drop: float, scale: float, paper: tuple[int, int, int] = _LIGHT) -> str:
    """The colour of a drop, `paper` at 0, full at `scale`, as ``#rrggbb``."""
    share = min(abs(drop) / scale, 1.0)
    end = _WORSE if drop > 0 else _BETTER
    return "#" + "".join(f"{round(from_ + (to - from_) * share):02x}" for from_, to in zip(paper, end, strict=True))


def palette(dark: bool) -> list[tuple[int, str, str]]:
    """(level, paper, ink) for every level: the ink, black or white, is the one that contrasts more."""
    levels = [level for level in range(-LEVELS, LEVELS + 1) if level]
    colours = [(level, shade(level, LEVELS, _DARK if dark else _LIGHT)) for level in levels]
    return [(level, paper, "#000" if luminance(paper) > 0.179 else "#fff") for level, paper in colours]


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, 0..1. Source: WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _cell(drop: float, scale: float, form: str) -> Cell:
    text = format(drop, form)
    if float(text) == 0:
        return Cell("0", 0)
    return Cell(text, math.ceil(LEVELS * min(abs(drop) / scale, 1.0)) * (1 if drop > 0 else -1))
