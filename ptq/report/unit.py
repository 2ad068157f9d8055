"""Unit: how a value of a metric, and a difference of two, is written. A share's differences are percentage points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptq.metrics.metric import SHARE

Row = Mapping[str, Any]


def of_value(row: Row) -> str:
    """The metric of a result, with its unit where it is no share: ``top1``, ``mse, squared error``."""
    return str(row["metric"]) if row["unit"] == SHARE else f"{row['metric']}, {row['unit']}"


def of_drop(row: Row) -> str:
    """The unit of a result's drop: ``pp`` for a share, else the metric's own."""
    return "pp" if row["unit"] == SHARE else str(row["unit"])


def value(row: Row, number: float | None) -> str:
    """A value of the result's metric; empty for None."""
    return "" if number is None else format(number, ".4f" if row["unit"] == SHARE else ".4g")


def drop(row: Row, number: float | None) -> str:
    """A loss against the float model, in `of_drop`, with its sign; empty where the value is one itself."""
    return _signed(row, number) if row.get("has_drop", True) else ""


def interval(row: Row, between: str) -> str:
    """The interval of a result's loss, with a word between its ends; empty where there is none."""
    return between.join(filter(None, (drop(row, bound) for bound in row["interval"] or ())))


def loss(row: Row, then: float, now: float) -> float:
    """How much worse `now` is than `then`, in `of_drop`; negative when it is better."""
    return (then - now) * _scale(row) * (1 if row["higher_is_better"] else -1)


def change(row: Row, then: float, now: float) -> str:
    """How much a value grew, in `of_drop`, with its sign."""
    return _signed(row, (now - then) * _scale(row))


def bounds(row: Row) -> tuple[float, float] | None:
    """The interval of a result's value, lower first: that of its drop, moved to the float model's value."""
    if not row["interval"] or row["fp32_value"] is None:
        return None
    sign = -1 if row["higher_is_better"] else 1
    low, high = sorted(row["fp32_value"] + sign * bound / _scale(row) for bound in row["interval"])
    return low, high


def _signed(row: Row, number: float | None) -> str:
    return "" if number is None else format(number, "+.2f" if row["unit"] == SHARE else "+.3g")


def _scale(row: Row) -> int:
    return 100 if row["unit"] == SHARE else 1
