"""outside_margin: how often the right class wins by a margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ptq.data.samples import Samples
from ptq.metrics.metric import Metric, Predictions, Score, first

WORTH = 1.0


@dataclass(frozen=True)
class Margin(Metric):
    """The share of samples whose label leads every other class by `margin`; each counts `WORTH`."""

    name: ClassVar[str] = "outside_margin"
    margin: float = 0.1

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        outputs = first(predictions).astype(np.float64)
        rows = np.arange(len(outputs))
        own = outputs[rows, samples.targets]
        others = outputs.copy()
        others[rows, samples.targets] = -np.inf
        outcomes = WORTH * (own - others.max(axis=1) >= self.margin)
        return Score(float(outcomes.mean()), len(outcomes), None, {}, outcomes.astype(np.float64))
