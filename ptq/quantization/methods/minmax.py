"""minmax: the whole range that was seen."""

from __future__ import annotations

from ptq.calibration.statistics import Extremes, TensorStatistics
from ptq.quantization.method import EXTREMES, Method
from ptq.quantization.quantizer import Quantizer


def minmax(statistics: TensorStatistics | Extremes, quantizer: Quantizer) -> tuple[float, float]:
    """(low, high) = (min, max), widened to contain 0: nothing is clipped.

    Source: Jacob et al. (2018), arXiv:1712.05877, section 3; ONNX Runtime's CalibrationMethod.MinMax.
    """
    return min(0.0, statistics.min), max(0.0, statistics.max)


METHOD = Method("minmax", minmax, needs=frozenset({EXTREMES}))
