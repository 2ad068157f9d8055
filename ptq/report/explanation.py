"""The page of an explanation: the sentence, the other findings, SQNR along the graph, and a table that sorts.

One page that needs nothing else. Its one script, which sorts the table, is allowed by its hash alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from ptq.report.plain import plain

WIDTH, HEIGHT, MOST_DB = 900, 260, 60.0
"""Of the chart, in pixels; its highest SQNR."""


def page(content: Mapping[str, Any]) -> str:
    """The page of an `Explanation`, as its `as_json` gives it."""
    import jinja2

    def source(name: str) -> str:
        return resources.files("ptq.report").joinpath("templates", name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(source),
        finalize=lambda value: plain(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["db"] = lambda value: "" if value is None else f"{value:.1f}"
    environment.filters["points"] = lambda value: "" if value is None else f"{value:+.2f}"
    environment.filters["share"] = lambda value: "" if value is None else f"{100 * value:.1f}"
    script = source("sort.js.j2")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("layers.html.j2").render(
        **{key: content[key] for key in ("name", "sentence", "findings", "rows", "samples", "of", "notes")},
        lines={name: _line(content["rows"], name) for name in ("kept", "propagated")},
        ticks=[(db, _y(db)) for db in range(0, int(MOST_DB) + 1, 10)],
        width=WIDTH, height=HEIGHT, script=script, digest=digest,
    )  # fmt: skip


def _line(rows: list[Mapping[str, Any]], name: str) -> list[tuple[float, float, str]]:
    """(x, y, label) of every layer that has a value."""
    step = WIDTH / max(len(rows) - 1, 1)
    return [
        (at * step, _y(row[name]), f"{row['node']}: {row[name]:.1f} dB")
        for at, row in enumerate(rows)
        if row[name] is not None
    ]


def _y(db: float) -> float:
    return HEIGHT * (1 - min(max(db, 0.0), MOST_DB) / MOST_DB)
