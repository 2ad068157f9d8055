"""The page of a search: what was bought, drop against time of all that was tried with the Pareto front, and a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptq.report.html import environment
from ptq.report.scatter import Point, Scatter, scatter


def page(content: Mapping[str, Any]) -> str:
    """The page of a `Tuned`, as its `as_json` gives it."""
    trials = content["trials"]
    row = {"metric": "drop", "unit": content["unit"], "higher_is_better": False}
    return (
        environment()
        .get_template("tuned.html.j2")
        .render(content=content, trials=trials, row=row, figures=[_figure(content, name) for name in ("time", "size")])
    )


def _figure(content: Mapping[str, Any], cost: str) -> Scatter:
    points = [
        Point(
            cost=each["ratio"][0] if cost == "time" else each["size_bytes"] / 1000,
            value=each["drop"][0],
            dtype=each["dtype"],
            label=each["name"],
            size=each["size_bytes"] if cost == "time" else None,
            values=(each["drop"][1], each["drop"][2]),
            costs=(each["ratio"][1], each["ratio"][2]) if cost == "time" else None,
            index=at,
        )
        for at, each in enumerate(content["trials"])
    ]
    name = "time / the float model's" if cost == "time" else "size, kB"
    return scatter(points, name, f"drop, {content['unit']}", higher_is_better=False)
