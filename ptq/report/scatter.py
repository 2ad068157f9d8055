"""A scatter plot of accuracy against a cost, with its Pareto front: inline SVG, no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ptq.report.element import Element, element
from ptq.report.pareto import front

# Okabe and Ito's palette, which colour-blind readers can tell apart; a shape each, so that print without colour can too
_STYLES = {
    "fp32": ("#000000", "square"),
    "int8": ("#D55E00", "circle"),
    "uint8": ("#0072B2", "diamond"),
    "u8s8": ("#009E73", "triangle"),
}
_OTHER = ("#CC79A7", "circle")
Scale = Callable[[float], float]
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 300, 58, 14, 12, 46


@dataclass(frozen=True)
class Point:
    """One case: its cost (x), its accuracy (y, 0..1), its dtype and what a reader sees when pointing at it.

    `size` is a second cost, drawn as the mark's area; None when there is none.
    """

    cost: float
    value: float
    dtype: str
    label: str
    size: float | None = None


@dataclass(frozen=True)
class Axis:
    """Of a linear scale: where it starts and ends, and the ticks on it."""

    low: float
    high: float
    ticks: tuple[float, ...]


def scatter(points: Sequence[Point], cost: str, value: str) -> Element:
    """The figure: plot, then the front as a numbered list, which is what its marks are numbered by.

    `cost` and `value` name the axes, with units.
    """
    across, up = axis([each.cost for each in points]), axis([each.value for each in points])

    def x(at: float) -> float:
        return _LEFT + (at - across.low) / (across.high - across.low) * (_WIDTH - _LEFT - _RIGHT)

    def y(at: float) -> float:
        return _HEIGHT - _BOTTOM - (at - up.low) / (up.high - up.low) * (_HEIGHT - _TOP - _BOTTOM)

    best = front([(each.cost, each.value) for each in points])
    line = " ".join(f"{x(points[each].cost):.1f},{y(points[each].value):.1f}" for each in best)
    largest = max((each.size or 0.0 for each in points), default=0.0)
    svg = element(
        "svg",
        element("title", f"{value} against {cost}"),
        *_grid(across, up, x, y, cost, value),
        element("polyline", points=line, fill="none", stroke="#555", stroke_width=1.5, stroke_dasharray="5 3"),
        *[_mark(x(each.cost), y(each.value), each, largest) for each in points],
        *[
            element("text", str(number), x=x(points[each].cost) + 7, y=y(points[each].value) - 6, class_="number")
            for number, each in enumerate(best, 1)
        ],
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    listed = [
        element("li", f"{points[each].label}: {points[each].value:.4f} at {number(points[each].cost)}") for each in best
    ]
    area = "; area: the size of the artifact" if largest else ""
    caption = element("figcaption", f"{value} against {cost}; dashed: the Pareto front{area}", element("ol", *listed))
    return element("figure", svg, _legend(points), caption)


def axis(values: Sequence[float]) -> Axis:
    """A scale that holds `values` with a margin, and three to seven round ticks."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) * 0.1 or 1.0
    low, high = low - 0.08 * span, high + 0.08 * span
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * each for each in (1, 2, 2.5, 5, 10) if unit * each >= raw)
    first = math.ceil(low / step)
    ticks = tuple(each * step for each in range(first, math.floor(high / step) + 1))
    return Axis(low, high, ticks)


def number(value: float) -> str:
    """Four significant digits, without an exponent below a million."""
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _grid(across: Axis, up: Axis, x: Scale, y: Scale, cost: str, value: str) -> list[Element]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    drawn = []
    for tick in across.ticks:
        drawn.append(element("line", x1=x(tick), x2=x(tick), y1=_TOP, y2=bottom, class_="grid"))
        drawn.append(element("text", number(tick), x=x(tick), y=bottom + 15, text_anchor="middle"))
    for tick in up.ticks:
        drawn.append(element("line", x1=_LEFT, x2=right, y1=y(tick), y2=y(tick), class_="grid"))
        drawn.append(element("text", number(tick), x=_LEFT - 5, y=y(tick) + 4, text_anchor="end"))
    middle = (_TOP + bottom) / 2
    return [
        *drawn,
        element("text", cost, x=(_LEFT + right) / 2, y=_HEIGHT - 8, text_anchor="middle", class_="axis"),
        element(
            "text", value, x=12, y=middle, text_anchor="middle", class_="axis", transform=f"rotate(-90 12 {middle:.1f})"
        ),
    ]


def _mark(x: float, y: float, point: Point, largest: float) -> Element:
    colour, shape = _STYLES.get(point.dtype, _OTHER)
    title = element("title", f"{point.label}: {point.value:.4f} at {number(point.cost)}")
    radius = 8 * math.sqrt(point.size / largest) if point.size else 5.0
    return _shape(shape, x, y, max(radius, 3.0), colour, title)


def _shape(shape: str, x: float, y: float, r: float, colour: str, title: Element | None = None) -> Element:
    if shape == "circle":
        return element("circle", title, cx=x, cy=y, r=r, fill=colour, fill_opacity=0.75)
    corners = {
        "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "diamond": [(0, -1.3 * r), (1.3 * r, 0), (0, 1.3 * r), (-1.3 * r, 0)],
        "triangle": [(0, -1.3 * r), (1.2 * r, r), (-1.2 * r, r)],
    }[shape]
    at = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return element("polygon", title, points=at, fill=colour, fill_opacity=0.75)


def _legend(points: Sequence[Point]) -> Element:
    entries = []
    for dtype in dict.fromkeys(each.dtype for each in points):
        colour, shape = _STYLES.get(dtype, _OTHER)
        mark = element("svg", _shape(shape, 7, 7, 5.0, colour), viewBox="0 0 14 14", class_="key", aria_hidden="true")
        entries.append(element("span", mark, dtype))
    return element("p", *entries, class_="legend")
