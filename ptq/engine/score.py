"""The score step: what a case scored, and how it compares with the float model."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ptq.data.samples import Samples
from ptq.engine.predictions import read_predictions
from ptq.engine.sample_set import SampleSet
from ptq.engine.step import Notes, Step
from ptq.metrics.interval import Interval
from ptq.metrics.metric import Metric, Predictions, Score

if TYPE_CHECKING:
    from ptq.engine.store import Entry, Store

_SCORES = ("score", "fp32")
_BESIDE = ("agreement", "sqnr_db", "cosine")


@dataclass(frozen=True)
class Compared:
    """What a case scored, what the float model did on the same samples, and how the two compare."""

    score: Score
    fp32: Score
    interval: Interval
    agreement: float | None
    sqnr_db: float | None
    cosine: float | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Compared:
        """The inverse of `as_json`."""
        score, fp32 = (Score(**{**content[name], "outcomes": _unpacked(content[name]["outcomes"])}) for name in _SCORES)
        return cls(score, fp32, Interval(**content["interval"]), *(content[name] for name in _BESIDE))

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; floats keep every bit, those of outcomes as base64: they are most of what a warm run reads."""
        content = asdict(self)
        for name in _SCORES:
            outcomes = np.asarray(content[name]["outcomes"], dtype="<f8")
            content[name]["outcomes"] = base64.b64encode(outcomes.tobytes()).decode()
        return content


def _unpacked(outcomes: str) -> npt.NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(outcomes), dtype="<f8").astype(np.float64)


@dataclass(frozen=True, eq=False)
class Compare(Step):
    """Scores of an artifact and of the float model; kept, because a detector's interval resamples a thousand times."""

    kind: ClassVar[str] = "score"
    name: str
    predictions: Entry
    reference: Entry
    samples: SampleSet
    metric: Metric
    truth: bool
    confidence: float

    @property
    def title(self) -> str:
        return f"{self.name}: scoring {self.samples.facts.n} samples"

    def settings(self) -> Mapping[str, Any]:
        return {
            "predictions": self.predictions.digest,
            "reference": self.reference.digest,
            "evaluation": self.samples.identity,
            "metric": self.metric,
            "truth": self.truth,
            "confidence": self.confidence,
        }

    def code(self) -> tuple[object, ...]:
        return (self.metric,)

    def make(self, out: Path, store: Store) -> Notes | None:
        ours, theirs = read_predictions(self.predictions.path), read_predictions(self.reference.path)
        samples: Samples = self.samples.raw if self.truth else TrueByReference(self.samples.raw, theirs)
        metric = self.metric
        found = Compared(
            metric.score(ours, samples),
            metric.score(theirs, samples),
            metric.drop(ours, theirs, samples, self.confidence),
            metric.agreement(ours, theirs),
            metric.sqnr_db(ours, theirs),
            metric.cosine(ours, theirs),
        )
        out.write_text(json.dumps(found.as_json()))
        return None


class TrueByReference:
    """Samples without a truth of their own, whose targets are what the float model said."""

    def __init__(self, samples: Samples, reference: Predictions) -> None:
        self._samples = samples
        self.targets = reference

    def __getattr__(self, name: str) -> Any:
        return getattr(self._samples, name)

    def __len__(self) -> int:
        return len(self._samples)
