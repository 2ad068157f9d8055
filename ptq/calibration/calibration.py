"""Calibration: the samples of a workload and, made once and on demand, the statistics over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ptq.calibration.patches import Moments
from ptq.calibration.statistics import Extremes, TensorStatistics
from ptq.methods import Range, method, needs_extremes_only
from ptq.methods.minmax import minmax
from ptq.quantizer import Quantizer
from ptq.samples import Samples


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a backend quantizes with.

    `samples` are the calibration inputs, the same for every case of a workload. `statistics` returns, by tensor
    name of the prepared model, what one pass over them saw; `moments` returns, by a layer's output tensor, the mean and
    covariance of what the layer multiplies its weights with; `extremes`, where given, only the min and max of every
    tensor, for less. Each pass runs at the first call only, so a backend with observers of its own never pays for it.
    `chosen` remembers ranges by (method, quantizer): cases that differ in their weights alone share them.
    """

    samples: Samples
    statistics: Callable[[], Mapping[str, TensorStatistics]]
    moments: Callable[[], Mapping[str, Moments]] = dict
    extremes: Callable[[], Mapping[str, Extremes]] | None = None
    chosen: dict[tuple[str, Quantizer], dict[str, Range]] = field(default_factory=dict)

    def ranges(self, name: str, quantizer: Quantizer) -> dict[str, Range]:
        """The (low, high) of every tensor by method `name`, for the `quantizer` that will use it."""
        if self.extremes is not None and needs_extremes_only(name):
            return {tensor: minmax(seen, quantizer) for tensor, seen in self.extremes().items()}
        statistics, key = self.statistics(), (name, quantizer)
        if key not in self.chosen:
            choose = method(name)
            self.chosen[key] = {tensor: choose(seen, quantizer) for tensor, seen in statistics.items()}
        return dict(self.chosen[key])
