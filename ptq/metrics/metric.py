"""What a metric is: it keeps what a model said, scores it, and compares it with the float model's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ptq.samples import Float32, Samples

Predictions = Mapping[str, npt.NDArray[Any]]
"""What a metric keeps of a model's outputs, by name: stored as .npz, so plain arrays only."""


@dataclass(frozen=True)
class Interval:
    """A drop against FP32 in percentage points (positive: worse) with its confidence interval and p-value.

    `p` is the two-sided p of the paired test named by the metric, None where it has none.
    """

    drop: float
    low: float
    high: float
    confidence: float
    p: float | None = None


@dataclass(frozen=True)
class Score:
    """`value` in 0..1 over `n` images; `correct` is a count where the metric counts images, else None.

    `outcomes` has one number per image, in order: for top1, 1 when the image is right.
    """

    value: float
    n: int
    correct: int | None
    per_class: Mapping[str, float]
    outcomes: npt.NDArray[np.float64]
    details: Mapping[str, Any] = field(default_factory=dict)


class Metric(Protocol):
    """One way to score. Pure: no state between calls."""

    @property
    def name(self) -> str:
        """What the value is called, e.g. ``top1``."""
        ...

    def key(self) -> Mapping[str, Any]:
        """Every setting that changes what `collect` keeps: part of the key predictions are stored under."""
        ...

    def collect(self, outputs: Iterable[Float32], samples: Samples) -> Predictions:
        """Reduce the model's output batches, in order, to what scoring needs; memory stays bounded."""
        ...

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        """The score of predictions on the samples they were made from."""
        ...

    def agreement(self, predictions: Predictions, reference: Predictions) -> float | None:
        """Share of equal decisions with the float model, 0..1; None where decisions cannot be matched."""
        ...

    def sqnr_db(self, predictions: Predictions, reference: Predictions) -> float | None:
        """10 log10(sum(reference^2) / sum((reference - output)^2)) over outputs; None when equal to the bit."""
        ...

    def drop(self, predictions: Predictions, reference: Predictions, samples: Samples, confidence: float) -> Interval:
        """The paired drop against the float model on the same images."""
        ...
