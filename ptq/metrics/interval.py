"""Interval: how much worse than the float model, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A drop against FP32 (positive: worse) with its confidence interval and p-value.

    `drop`, `low` and `high` are in percentage points for a metric that is a share, else in the metric's unit. `p` is
    the two-sided p of the paired test named by the metric, None where it has none.
    """

    drop: float
    low: float
    high: float
    confidence: float
    p: float | None = None
