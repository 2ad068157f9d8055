"""Reconstruction: how far an autoencoder's output is from its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ptq.data.samples import Samples
from ptq.errors import BadData
from ptq.metrics.metric import Metric, Predictions, Score, first


@dataclass(frozen=True)
class Reconstruction(Metric):
    """The mean squared error of the first output against the targets, lower is better: the targets are the inputs.

    In squared units of the input. `outcomes` has the error of each sample, what an anomaly detector thresholds (MLPerf
    Tiny's ad01). Raises `BadData` for targets that are absent or of another size than the output.
    """

    name: ClassVar[str] = "reconstruction"
    unit: ClassVar[str] = "squared error"
    higher_is_better: ClassVar[bool] = False
    low: ClassVar[float | None] = 0.0

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        if samples.targets is None:
            raise BadData("no targets, but reconstruction needs the inputs as targets: ArraySamples(x, targets=x)")
        made, wanted = first(predictions), np.asarray(samples.targets)
        if made.size != wanted.size or len(made) != len(wanted):
            raise BadData(f"outputs.shape={made.shape}, but the targets are {wanted.shape}: the inputs as targets?")
        apart = made.reshape(len(made), -1).astype(np.float64) - wanted.reshape(len(made), -1)
        errors = np.square(apart).mean(axis=1)
        return Score(float(errors.mean()), len(errors), None, {}, errors)


METRIC = Reconstruction
