"""A scatter plot of a metric against a cost, with its Pareto front; ``templates/scatter.html.j2`` draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ptq.report.pareto import front

FRAME = LEFT, RIGHT, TOP, BOTTOM = 58, 406, 12, 254
"""The edges of what is drawn in, in pixels; beyond them is room for ticks and names."""
# Okabe and Ito's palette, which colour-blind readers can tell apart; a shape each, so that print without colour can too
_STYLES = {
    "fp32": ("currentColor", "square"),
    "int8": ("#D55E00", "circle"),
    "uint8": ("#0072B2", "diamond"),
    "u8s8": ("#009E73", "triangle"),
}


@dataclass(frozen=True)
class Point:
    """One case: its cost (x), its value (y), its dtype and what it is called.

    `size` is a second cost, drawn as the mark's area; `values` and `costs` are the intervals of both, lower first; None
    when there is none. `index` is the number of its case on the page.
    """

    cost: float
    value: float
    dtype: str
    label: str
    size: float | None = None
    values: tuple[float, float] | None = None
    costs: tuple[float, float] | None = None
    index: int = 0


@dataclass(frozen=True)
class Axis:
    """A linear scale: where it starts and ends, in units and in pixels, and the ticks on it, in units."""

    low: float
    high: float
    ticks: tuple[float, ...]
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class Scatter:
    """The picture: every point, those of the front by cost, and the axes, `cost` and `value` with their names."""

    points: tuple[Point, ...]
    best: tuple[Point, ...]
    cost: str
    value: str
    across: Axis
    up: Axis

    @property
    def largest(self) -> float:
        """Of the points' sizes; 0 when none has any."""
        return max(point.size or 0.0 for point in self.points)

    @property
    def dtypes(self) -> list[str]:
        """In the order of the points."""
        return list(dict.fromkeys(point.dtype for point in self.points))

    def radius(self, point: Point) -> float:
        """Of the point's mark, in pixels: the area is as its size."""
        return max(8 * math.sqrt(point.size / self.largest), 3.0) if point.size else 5.0


def scatter(points: Sequence[Point], cost: str, value: str, higher_is_better: bool = True) -> Scatter:
    """The picture of at least one point; `cost` and `value` name the axes, with units."""
    best = front([(point.cost, point.value if higher_is_better else -point.value) for point in points])
    across = axis([edge for point in points for edge in (point.cost, *(point.costs or ()))], LEFT, RIGHT)
    up = axis([edge for point in points for edge in (point.value, *(point.values or ()))], BOTTOM, TOP)
    return Scatter(tuple(points), tuple(points[index] for index in best), cost, value, across, up)


def axis(values: Sequence[float], start: float, end: float) -> Axis:
    """A scale that holds `values` with a margin, and three to seven round ticks, from pixel `start` to `end`."""
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    span = high - low
    if span <= 1e-9 * largest:  # equal, or nearer to each other than floats can divide
        span = largest / 10 if largest > 1e-99 else 1.0
    low, high = low - 0.08 * span, high + 0.08 * span
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw)
    ticks = range(math.ceil(low / step), math.floor(high / step) + 1)
    return Axis(low, high, tuple(tick * step for tick in ticks), start, end)


def style(dtype: str) -> tuple[str, str]:
    """The colour of a dtype's marks and the name of their shape."""
    return _STYLES.get(dtype, ("#CC79A7", "circle"))


def number(value: float) -> str:
    """Four significant digits, without an exponent below a million."""
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
