"""Calibration: the samples of a workload and, made once and on demand, the statistics over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ptq.calibration.patches import Moments
from ptq.calibration.statistics import TensorStatistics
from ptq.methods import Range, method
from ptq.quantizer import Quantizer
from ptq.samples import Samples


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a backend quantizes with.

    `samples` are the calibration inputs, the same for every case of a workload. `statistics` returns, by tensor
    name of the prepared model, what one pass over them saw; `moments` returns, by a layer's output tensor, the mean and
    covariance of what the layer multiplies its weights with. Either pass runs at the first call only, so a backend
    with observers of its own never pays for it.
    """

    samples: Samples
    statistics: Callable[[], Mapping[str, TensorStatistics]]
    moments: Callable[[], Mapping[str, Moments]] = dict

    def ranges(self, name: str, quantizer: Quantizer) -> dict[str, Range]:
        """The (low, high) of every tensor by method `name`, for the `quantizer` that will use it."""
        choose = method(name)
        return {tensor: choose(seen, quantizer) for tensor, seen in self.statistics().items()}
