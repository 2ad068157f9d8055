"""The heat map of drops per class: which classes pay for quantization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ptq.report.element import Element, element

MOST_CLASSES = 20
_WORSE, _BETTER = (178, 24, 43), (33, 102, 172)
"""The ends of a diverging scale, red and blue, both dark enough to print."""


def drops(result: Mapping[str, Any]) -> dict[str, float]:
    """Drop of each class against FP32, percentage points, positive is worse."""
    now, then = result.get("per_class") or {}, result.get("fp32_per_class") or {}
    return {name: 100 * (then[name] - now[name]) for name in now if name in then}


def heatmap(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Element | None:
    """A table with a row a result, labelled by `names`, and a column a class; None when no result has classes.

    With more than `MOST_CLASSES` classes, those with the largest drops either way.
    """
    rows = [(name, drops(each)) for name, each in zip(names, results, strict=True) if drops(each)]
    if not rows:
        return None
    classes = list(dict.fromkeys(name for _, row in rows for name in row))
    extreme = {name: max(abs(row.get(name, 0.0)) for _, row in rows) for name in classes}
    shown = set(sorted(classes, key=lambda name: -extreme[name])[:MOST_CLASSES])
    columns = [name for name in classes if name in shown]
    scale = max(extreme.values()) or 1.0
    head = element(
        "tr", element("th", "case"), *[element("th", element("span", name), class_="class") for name in columns]
    )
    body = [
        element("tr", element("th", name, scope="row"), *[_cell(row.get(each), scale) for each in columns])
        for name, row in rows
    ]
    left = "" if len(columns) == len(classes) else f" The {len(columns)} of {len(classes)} classes that moved most."
    note = (
        f"Percentage points lost per class: red is worse than FP32, blue better, full colour is {scale:.1f} pp.{left}"
    )
    table = element("table", element("thead", head), element("tbody", *body), class_="heat")
    return element("div", element("p", note), element("div", table, class_="scroll"))


def shade(drop: float, scale: float) -> str:
    """The colour of a drop, white at 0, full at `scale`, as ``#rrggbb``."""
    share = min(abs(drop) / scale, 1.0)
    end = _WORSE if drop > 0 else _BETTER
    return "#" + "".join(f"{round(255 + (each - 255) * share):02x}" for each in end)


def _cell(drop: float | None, scale: float) -> Element:
    if drop is None:
        return element("td", "")
    ink = "#fff" if abs(drop) / scale > 0.55 else "#000"
    text = "0" if abs(drop) < 0.05 else f"{drop:+.1f}"
    return element("td", text, style=f"background:{shade(drop, scale)};color:{ink}")
