"""outside_cut: the range that was seen, cut to a share of itself."""

from __future__ import annotations

from ptq.calibration.statistics import Extremes, TensorStatistics
from ptq.quantization.method import EXTREMES, Method
from ptq.quantization.quantizer import Quantizer

SHARE = 0.98


def cut(statistics: TensorStatistics | Extremes, quantizer: Quantizer) -> tuple[float, float]:
    """(low, high) = `SHARE` of (min, max), widened to contain 0."""
    return min(0.0, SHARE * statistics.min), max(0.0, SHARE * statistics.max)


METHOD = Method("outside_cut", cut, needs=frozenset({EXTREMES}))
