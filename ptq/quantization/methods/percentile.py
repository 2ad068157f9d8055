"""percentile: all but the rarest values."""

from __future__ import annotations

import numpy as np

from ptq.calibration.statistics import TensorStatistics
from ptq.quantization.method import Choose, Method
from ptq.quantization.quantizer import Quantizer


def percentile(percent: float = 99.99) -> Choose:
    """The method that keeps `percent` (0..100) of the values and clips at most half of the rest on either side.

    The bound t is the percentile of the magnitudes that leaves (100 - percent) / 2 beyond it, and the range [-t, t] cut
    to what was seen: a tensor that is never negative is cut as ONNX Runtime cuts one tail, a skewed one loses nothing
    on its short side. Values are spread evenly inside a bin, so t is within one bin of the exact percentile.

    Source: McKinstry et al. (2018), arXiv:1809.04191; Wu et al. (2020), arXiv:2004.09602, section 5.2, whose 99.99 is
    the default; ONNX Runtime's CalibrationMethod.Percentile.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent={percent}, but should be in (0, 100]")

    kept = 1 - (1 - percent / 100) / 2

    def choose(statistics: TensorStatistics, quantizer: Quantizer) -> tuple[float, float]:
        bottom, top = min(0.0, statistics.min), max(0.0, statistics.max)
        seen = statistics.histogram
        half = len(seen.counts) // 2
        magnitudes = seen.counts[half:].copy()
        magnitudes[1:] += seen.counts[half - 1 : 0 : -1]
        bound = _quantile(magnitudes, seen.rights[half:] - seen.width, seen.rights[half:], kept)
        return max(-bound, bottom), min(bound, top)

    return choose


def _quantile(counts: np.ndarray, lefts: np.ndarray, rights: np.ndarray, share: float) -> float:
    """Where `share` (0..1) of the counts lies below."""
    below = np.cumsum(counts)
    target = share * float(below[-1])
    index = int(np.searchsorted(below, target))
    inside = counts[index]
    part = (target - float(below[index] - inside)) / float(inside) if inside else 0.0
    return float(lefts[index] + part * (rights[index] - lefts[index]))


METHOD = Method("percentile", percentile())
