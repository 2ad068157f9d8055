"""Fidelity: how a model without a given truth is judged: by the float model's own outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ptq.data.samples import Samples
from ptq.errors import BadData
from ptq.metrics.metric import Metric, Predictions, Score, first, float_pairs

LIMIT_DB = 150.0
"""What equal outputs are given: beyond float32's own precision."""


@dataclass(frozen=True)
class Agreement(Metric):
    """The share of samples whose largest output is where the float model has it: for a classifier.

    The targets are the float model's predictions, a mapping of arrays.
    """

    name: ClassVar[str] = "agreement"

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        ours, theirs = first(predictions), first(_reference(samples))
        if ours.shape != theirs.shape:
            raise BadData(f"outputs.shape={ours.shape}, but the float model's are {theirs.shape}: another model?")
        equal = ours.argmax(axis=1) == theirs.argmax(axis=1)
        outcomes = equal.astype(np.float64)
        return Score(float(equal.mean()), len(equal), int(equal.sum()), {}, outcomes, chance=1 / theirs.shape[1])


@dataclass(frozen=True)
class Fidelity(Metric):
    """SQNR in dB of all outputs against the float model's: for a model that decides nothing by itself.

    The targets are the float model's predictions, a mapping of arrays; `LIMIT_DB` for equal ones.
    """

    name: ClassVar[str] = "sqnr"
    unit: ClassVar[str] = "dB"
    low: ClassVar[float | None] = -LIMIT_DB
    high: ClassVar[float | None] = LIMIT_DB
    has_drop: ClassVar[bool] = False

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        """`outcomes` are the SQNR of each sample alone. A model that says 0 of everything has 0 dB."""
        rows = len(samples)
        noise, signal = np.zeros(rows), np.zeros(rows)
        pairs = list(float_pairs(predictions, _reference(samples)))
        if not pairs:
            raise BadData("no output is a float, but the SQNR needs one: give the workload targets and a metric")
        for ours, theirs in pairs:
            if ours.shape != theirs.shape:
                raise BadData(f"outputs.shape={ours.shape}, but the float model's are {theirs.shape}: another model?")
            want = theirs.reshape(rows, -1).astype(np.float64)
            noise += ((want - ours.reshape(rows, -1)) ** 2).sum(axis=1)
            signal += (want**2).sum(axis=1)
        value = float(_decibel(signal.sum(keepdims=True), noise.sum(keepdims=True))[0])
        return Score(value, rows, None, {}, _decibel(signal, noise), chance=0.0)


def fidelity_for(predictions: Predictions) -> Metric:
    """The metric for what a float model says: `Agreement` where it is one row of probabilities a sample.

    Logits cannot be told from any other vector.
    """
    values = first(predictions)
    if values.ndim != 2 or values.shape[1] < 2 or len(predictions) != 1:
        return Fidelity()
    return Agreement() if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3) else Fidelity()


def _reference(samples: Samples) -> Predictions:
    reference: Predictions = samples.targets
    return reference


def _decibel(signal: npt.NDArray[Any], noise: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(signal / noise)
    return np.clip(np.where(noise == 0, LIMIT_DB, ratio), -LIMIT_DB, LIMIT_DB)


METRIC = (Agreement, Fidelity)
