"""Timings: which time ratios of a report belong to which results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ptq.cases import FP32

Row = Mapping[str, Any]


def timings(content: Row) -> Sequence[Row]:
    """Every timing of a report, by id, what it ran against, and batch."""
    races: Sequence[Row] = content.get("latency") or []
    return races


def by_result(content: Row) -> dict[str, dict[int, Row]]:
    """For each result's id, the time ratios to FP32 of its graph, by batch size."""
    return {
        each["id"]: {race["batch"]: race for race in each.get("latency") or [] if race["against"] == FP32}
        for each in content["results"]
    }
