"""Timings: which time ratios of a report belong to which results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ptq.cases import FP32

Row = Mapping[str, Any]
_GRAPH = ("workload", "backend", "dtype", "granularity", "exclude")


def timings(content: Row) -> list[Row]:
    """Every timing of a report, by id, what it ran against, and batch."""
    return sorted(content.get("latency") or [], key=lambda each: (each["id"], each["against"], each["batch"]))


def by_result(content: Row) -> dict[str, dict[int, Row]]:
    """For each result's id, its time ratios to FP32 by batch size.

    One case is timed for each graph, since methods only move scales: its siblings have its timings.
    """
    results: Sequence[Row] = content["results"]
    graphs = {each["id"]: tuple(each[field] for field in _GRAPH) for each in results}
    timed: dict[tuple[str, ...], dict[int, Row]] = {}
    for each in timings(content):
        if each["against"] == FP32 and each["id"] in graphs:
            timed.setdefault(graphs[each["id"]], {})[each["batch"]] = each
    return {name: timed.get(graph, {}) for name, graph in graphs.items()}
