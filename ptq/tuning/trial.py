"""Trial: one candidate of a search, and what it gave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptq.cases import Case
from ptq.data.samples import first_batch
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import reference_case
from ptq.engine.step import Notes, Step
from ptq.latency.ratio import Budget, measure_ratio
from ptq.metrics.interval import Interval

if TYPE_CHECKING:
    from ptq.engine.store import Store

SECONDS = 3.0
"""How long two models are timed in turns, unless the interval is narrow before; at least three rounds."""


@dataclass(frozen=True)
class Trial:
    """One candidate: its case and the nodes kept in float.

    `drop` is against the float model on `n` samples of the half that is tuned on, in percentage points or the metric's
    unit. `kept_db` is what is left of its worst kind of answers on calibration samples, in exact arithmetic. `ratio`
    is (value, low, high) of its time / the float model's. `lost`: half of what the float model scores is gone.
    """

    case: Case
    exclude: tuple[str, ...]
    drop: Interval
    n: int
    kept_db: float
    ratio: tuple[float, float, float]
    size_bytes: int
    lost: bool = False

    def __str__(self) -> str:
        kept = f", {len(self.exclude)} nodes in float" if self.exclude not in ((), ("auto",)) else ""
        drop = f"drop {self.drop.drop:+.3g} [{self.drop.low:+.3g}, {self.drop.high:+.3g}] on {self.n} samples"
        gave = f"{self.kept_db:.1f} dB, time ratio {self.ratio[0]:.3f}, {self.size_bytes:,} bytes"
        return f"{self.case}: {drop}, {gave}{kept}"

    def meets(self, max_drop: float) -> bool:
        """Whether it loses no more than `max_drop` on the half that is tuned on."""
        return self.drop.drop <= max_drop

    def sure(self, max_drop: float) -> int:
        """2 where its interval says that it `meets`, 1 where its drop alone does, 0 where it does not."""
        return int(self.meets(max_drop)) + int(self.drop.high <= max_drop)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        more = 0 if self.exclude == ("auto",) else len(self.exclude)
        name = self.case.id.removeprefix(f"{self.case.workload}-") + (f", {more} nodes in float" if more else "")
        return {
            "case": self.case.id,
            "name": name,
            "dtype": self.case.dtype,
            "exclude": list(self.exclude),
            "drop": [self.drop.drop, self.drop.low, self.drop.high],
            "n": self.n,
            "kept_db": self.kept_db,
            "ratio": list(self.ratio),
            "size_bytes": self.size_bytes,
            "lost": self.lost,
        }


@dataclass(frozen=True, eq=False)
class Time(Step):
    """A case's time / that of the float model, both timed in turns on one thread; kept, so that a search goes on."""

    kind: ClassVar[str] = "ratio"
    pipeline: Pipeline
    case: Case
    batch: int
    seconds_a_sample: float

    @property
    def title(self) -> str:
        return f"{self.case}: timing"

    def settings(self) -> Mapping[str, Any]:
        artifacts = [self.pipeline.artifact(each).digest for each in (self.case, reference_case(self.case.workload))]
        return {"artifacts": artifacts, "batch": self.batch, "versions": self.pipeline.registry.versions("onnxruntime")}

    def make(self, out: Path, store: Store) -> Notes | None:
        pipeline = self.pipeline
        inputs = first_batch(pipeline.evaluation_samples, self.batch)
        reference, other = (pipeline.predictor(each) for each in (reference_case(self.case.workload), self.case))
        rounds = int(SECONDS / (8 * max(self.seconds_a_sample * self.batch, 1e-4)))
        found = measure_ratio(reference, other, inputs, budget=Budget(SECONDS, first=min(12, max(3, rounds))))
        out.write_text(json.dumps([found.value, found.low, found.high]))
        return None
