"""TensorStatistics: what one pass saw of one tensor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorStatistics:
    """Placeholder of the statistics of one tensor: min and max so far."""

    min: float
    max: float
