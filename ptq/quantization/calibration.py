"""Calibration: what a backend quantizes with: the samples, and what the passes over them saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ptq.calibration.patches import Moments
from ptq.calibration.statistics import Extremes, TensorStatistics
from ptq.data.samples import Samples
from ptq.errors import PtqError
from ptq.quantization.method import Method, Range
from ptq.quantization.quantizer import Quantizer


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a backend quantizes with.

    `samples` are the calibration inputs, named and cast as the model takes them, the same for every case of a workload.
    `statistics` returns, by tensor name of the prepared model, what one pass over them saw; `moments`, by a layer's
    output tensor, the mean and covariance of what the layer multiplies its weights with; `extremes`, where given, only
    the min and max of every tensor, for less. Each pass runs at the first call only, so a backend with observers of its
    own never pays for it. `methods` are those there are, by name. `chosen` remembers ranges by (method, quantizer):
    cases that differ in their weights alone share them.
    """

    samples: Samples
    statistics: Callable[[], Mapping[str, TensorStatistics]]
    methods: Mapping[str, Method]
    moments: Callable[[], Mapping[str, Moments]] = dict
    extremes: Callable[[], Mapping[str, Extremes]] | None = None
    chosen: dict[tuple[str, Quantizer], dict[str, Range]] = field(default_factory=dict)

    def method(self, name: str) -> Method:
        """The method called `name`; `PtqError` names those there are."""
        if name not in self.methods:
            raise PtqError(f"method {name!r} is not known: it should be one of {', '.join(self.methods)}")
        return self.methods[name]

    def ranges(self, name: str, quantizer: Quantizer) -> dict[str, Range]:
        """The (low, high) of every tensor by method `name`, for the `quantizer` that will use it."""
        method, key = self.method(name), (name, quantizer)
        if key not in self.chosen:
            light = self.extremes is not None and not method.needs_histogram
            seen = self.extremes() if light and self.extremes is not None else self.statistics()
            self.chosen[key] = {tensor: method.choose(each, quantizer) for tensor, each in seen.items()}
        return dict(self.chosen[key])
