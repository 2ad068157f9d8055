"""What a metric is: it keeps what a model said, scores it, and compares it with the float model's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ptq.data.batch import Batch
from ptq.data.samples import Samples
from ptq.errors import BadData
from ptq.metrics.interval import Interval
from ptq.metrics.paired import mean_drop, paired_drop

Predictions = Mapping[str, npt.NDArray[Any]]
"""What a metric keeps of a model's outputs, by name: stored as .npz, so plain arrays only."""

SHARE = "share"
"""The unit of a value in 0..1, whose drops are in percentage points."""


@dataclass(frozen=True)
class Score:
    """`value` in the metric's unit over `n` samples; `correct` is a count where the metric counts samples, else None.

    `outcomes` has one number per sample, in order: for top1, 1 when the image is right. `chance` is what a model that
    knows nothing has, None where that cannot be said. `per_class` is in the same unit, by class name; `details` is what
    else the metric says, as JSON.
    """

    value: float
    n: int
    correct: int | None
    per_class: Mapping[str, float]
    outcomes: npt.NDArray[np.float64]
    details: Mapping[str, Any] = field(default_factory=dict)
    chance: float | None = None


@dataclass(frozen=True)
class Metric:
    """One way to score. Pure: no state between calls.

    A metric of your own is a frozen dataclass that derives from this and has a `score`; its fields are its settings.
    They and the code of its file are part of what results are kept under.

    Class variables
    ---------------
    name: what the value is called, e.g. ``top1``.
    unit: ``share`` for a value in 0..1, else the unit of the value, e.g. ``dB`` or ``squared error``.
    higher_is_better: False for a loss.
    low, high: the range the value lies in; bars outside it are refused. None: 0 and 1 for a ``share``, else no limit.
    has_drop: False where the value already is a distance to the float model, so that a drop of it says nothing.
    group: how many samples in a row belong together, 2 of pairs: where samples are divided, they stay together.
    """

    name: ClassVar[str] = "metric"
    unit: ClassVar[str] = SHARE
    higher_is_better: ClassVar[bool] = True
    low: ClassVar[float | None] = None
    high: ClassVar[float | None] = None
    has_drop: ClassVar[bool] = True
    group: ClassVar[int] = 1

    @property
    def range(self) -> tuple[float, float]:
        """(low, high) of the value."""
        usual = (0.0, 1.0) if self.unit == SHARE else (-math.inf, math.inf)
        return usual[0] if self.low is None else self.low, usual[1] if self.high is None else self.high

    def collect(self, outputs: Iterable[Batch], samples: Samples) -> Predictions:
        """Reduce the model's output batches, by output name and in the order of the samples, to what scoring needs.

        Here: every output as it is, under its name. Raises `BadData` for values that are not finite, and for outputs
        whose shape differs from sample to sample: a metric for those needs a `collect` of its own.
        """
        kept: dict[str, list[npt.NDArray[Any]]] = {}
        for batch in outputs:
            for name, values in batch.items():
                kept.setdefault(name, []).append(np.asarray(values))
        found = {}
        for name, parts in kept.items():
            if len({part.shape[1:] for part in parts}) > 1:
                raise BadData(
                    f"output {name!r}: shapes differ from sample to sample, but {self.name} keeps outputs of one "
                    "shape: write a collect() that reduces them"
                )
            found[name] = np.concatenate(parts)
            if found[name].dtype.kind == "f" and not np.isfinite(found[name]).all():
                bad = int(np.argwhere(~np.isfinite(found[name]))[0][0])
                raise BadData(f"{name}[{bad}] is not finite, but should be: the artifact is broken")
            if len(found[name]) != len(samples):
                raise BadData(f"output {name!r}: {len(found[name])} rows, but should be {len(samples)}, one a sample")
        return found

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        """The score of predictions on the samples they were made from."""
        raise BadData(f"metric {self.name}: has no score(predictions, samples) -> ptq.Score, but should have one")

    def agreement(self, predictions: Predictions, reference: Predictions) -> float | None:
        """Share of equal decisions with the float model, 0..1; None where decisions cannot be matched.

        Here: of the largest value, where the first output has one row of two or more values a sample.
        """
        ours, theirs = first(predictions), first(reference)
        if ours.ndim != 2 or ours.shape != theirs.shape or ours.shape[1] < 2:
            return None
        return float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())

    def sqnr_db(self, predictions: Predictions, reference: Predictions) -> float | None:
        """10 log10(sum(reference^2) / sum((reference - output)^2)) over float outputs.

        Infinite when equal to the bit; None where there is nothing to compare: no float output, other shapes, all 0.
        """
        noise = signal = 0.0
        for ours, theirs in float_pairs(predictions, reference):
            if ours.shape == theirs.shape:
                want = theirs.astype(np.float64)
                noise += float(((want - ours) ** 2).sum())
                signal += float((want**2).sum())
        if signal == 0:
            return None
        return math.inf if noise == 0 else float(10 * np.log10(signal / noise))

    def cosine(self, predictions: Predictions, reference: Predictions) -> float | None:
        """Mean over samples of the cosine of what a sample's float outputs are with the float model's, -1..1.

        A sample whose outputs are all 0 in one of the two has 0, in both 1. None as for `sqnr_db`: no float output,
        other shapes.
        """
        pairs = [
            [each.reshape(len(each), -1).astype(np.float64) for each in (ours, theirs)]
            for ours, theirs in float_pairs(predictions, reference)
            if ours.ndim and ours.shape == theirs.shape and len(ours)
        ]
        if not pairs or len({len(ours) for ours, _ in pairs}) > 1:
            return None
        have, want = (np.concatenate(each, axis=1) for each in zip(*pairs, strict=True))
        norms = np.linalg.norm(have, axis=1) * np.linalg.norm(want, axis=1)
        both = ~(have.any(axis=1) | want.any(axis=1))
        return float(np.where(both, 1.0, (have * want).sum(axis=1) / np.where(norms > 0, norms, 1.0)).mean())

    def drop(self, predictions: Predictions, reference: Predictions, samples: Samples, confidence: float) -> Interval:
        """How much worse than the float model on the same samples; positive is worse, whatever the direction.

        In percentage points for a ``share``, else in the metric's unit. Here: of the mean of the outcomes; where the
        metric counts samples, as `ptq.metrics.paired.paired_drop` has it, else with a paired bootstrap over samples.
        """
        score, fp32 = self.score(predictions, samples), self.score(reference, samples)
        ours, theirs = score.outcomes, fp32.outcomes
        if score.correct is not None and self.higher_is_better and np.isin([ours, theirs], (0, 1)).all():
            return paired_drop(theirs == 1, ours == 1, confidence)
        worse = theirs - ours if self.higher_is_better else ours - theirs
        return mean_drop(worse * (100 if self.unit == SHARE else 1), confidence)


def first(predictions: Predictions) -> npt.NDArray[Any]:
    """The first of the arrays kept."""
    return next(iter(predictions.values()))


def float_pairs(
    predictions: Predictions, reference: Predictions
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Each float output beside the reference's of the same name; in order where a runtime names outputs otherwise."""
    names = list(reference) if set(reference) <= set(predictions) else list(predictions)
    for name, theirs in zip(names, reference.values(), strict=False):
        if theirs.dtype.kind == "f":
            yield predictions[name], theirs
