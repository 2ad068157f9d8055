"""The page of a search: what was bought, drop against time of all that was tried with the Pareto front, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ptq.report.html import environment
from ptq.report.scatter import Point, Scatter, scatter


def page(content: Mapping[str, Any]) -> str:
    """The page of a `Tuned`, as its `as_json` gives it."""
    trials = content["trials"]
    row = {"metric": "drop", "unit": content["unit"], "higher_is_better": False}
    kept = [each for each in trials if not each["lost"]]
    drawn = [("time", trials), *([("time", kept)] if 0 < len(kept) < len(trials) else []), ("size", kept or trials)]
    return (
        environment()
        .get_template("tuned.html.j2")
        .render(
            content=content,
            trials=trials,
            row=row,
            figures=[_figure(each, cost, content["unit"]) for cost, each in drawn],
        )
    )


def _figure(trials: Sequence[Mapping[str, Any]], cost: str, unit: str) -> Scatter:
    timed = cost == "time"
    points = [
        Point(
            cost=each["ratio"][0] if timed else each["size_bytes"] / 1000,
            value=each["drop"][0],
            dtype=each["dtype"],
            label=each["name"],
            size=each["size_bytes"] if timed else None,
            values=(each["drop"][1], each["drop"][2]),
            costs=(each["ratio"][1], each["ratio"][2]) if timed else None,
            index=at,
        )
        for at, each in enumerate(trials)
    ]
    return scatter(points, "time / the float model's" if timed else "size, kB", f"drop, {unit}", higher_is_better=False)
