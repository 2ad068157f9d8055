"""Ranking: what standing a result or a race has, and the order of results in every table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ptq.cases import FP32
from ptq.gate.result import FAIL, PASS, UNRESOLVED

Row = Mapping[str, Any]
EXPECTED = "expected failure"
TONES = {PASS: "pass", UNRESOLVED: "unresolved", EXPECTED: "unresolved", FAIL: "fail"}
"""The tone of a standing, which each report has a colour or a mark for; ``other`` for what was not measured."""
_ORDER = tuple(TONES)


def standing(row: Row) -> str:
    """The verdict in words; a failure that turns nothing red is an expected one."""
    return EXPECTED if row["verdict"] == FAIL and not row["red"] else str(row["verdict"]).replace("_", " ")


def worse(row: Row) -> bool:
    """Whether a result is significantly worse than its reference."""
    return bool((row.get("reference") or {}).get("worse"))


def verdict(row: Row) -> str:
    """`standing`, and whether it is worse than its reference."""
    return f"{standing(row)}, worse" if worse(row) else standing(row)


def tone(row: Row) -> str:
    """The tone of `verdict`, of `TONES`."""
    return TONES.get(_place(row), "other")


def merit(row: Row) -> tuple[float, ...]:
    """How close a result is to the float model, smallest first: agreement, SQNR, drop, size.

    Not accuracy first: among cases that keep it, who has the most of it is chance on a thousand samples.
    """
    agreement, sqnr = row["agreement"], row["sqnr_db"]
    if sqnr is None:  # outputs that are equal to the bit have none
        sqnr = math.inf if agreement == 1 else -math.inf
    return -(agreement or 0.0), -sqnr, row["drop"] or 0.0, row["size_bytes"] or math.inf


def order(row: Row) -> tuple[Any, ...]:
    """The sort key of judged results: workload, float cases, verdict, `merit`; red for being worse is as a failure."""
    return row["workload"], row["dtype"] != FP32, _ORDER.index(_place(row)), *merit(row), row["id"]


def _place(row: Row) -> str:
    return FAIL if worse(row) and row["red"] else standing(row)
