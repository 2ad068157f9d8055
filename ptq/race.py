"""Race: a case timed against the float model, or against its own artifact of another revision, in one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptq.backends.protocol import Census, Predictor
from ptq.bars import Bar
from ptq.cases import FP32, Case
from ptq.environment import instruction_sets
from ptq.errors import NoData, PtqError, Unsupported
from ptq.latency import Budget, Ratio, measure_ratio
from ptq.pipeline import Pipeline, backend_of, float_case
from ptq.samples import Float32, Samples
from ptq.verdict import Verdict, judge_ratio

BATCHES = (1, 64)
"""Batch sizes that are timed: a camera's and a server's."""
THREADS = 1
"""Of every timed predictor: the ratio of two models then does not depend on who else wants a core."""
SAME = 1.05
"""Largest time ratio to an artifact of another revision: what the same model against itself keeps within."""


@dataclass(frozen=True, eq=False)
class Race:
    """Two predictors of one runtime and the inputs both take.

    `against` names the other: ``fp32``, or ``base`` for an artifact of another revision. `stands_for` are the ids of
    the cases that run the same graph, its own among them.
    """

    case: Case
    stands_for: tuple[str, ...]
    batch: int
    against: str
    reference: Predictor
    predict: Predictor
    inputs: Float32
    bar: Bar
    census: Census
    sizes: Mapping[str, int]

    @property
    def facts(self) -> dict[str, Any]:
        """What goes beside a time so that it can be read later: threads, instruction sets, sizes, what ran."""
        return {
            "case": self.case.id,
            "batch": self.batch,
            "threads": THREADS,
            "provider": self.case.backend,
            "isa": list(instruction_sets()),
            **self.sizes,
            "integer_share": self.census.integer_share,
            "integer": dict(self.census.integer),
            "floating": dict(self.census.floating),
        }

    def run(self, budget: Budget | None = None) -> Timing:
        """Time both in turns and judge the ratio."""
        ratio = measure_ratio(self.reference, self.predict, self.inputs, self.bar.ratio, budget)
        verdict = judge_ratio(f"{self.case.id} batch {self.batch} against {self.against}", ratio, self.bar)
        return Timing(self.case, self.stands_for, self.batch, self.against, ratio, verdict, executed(self.census))


@dataclass(frozen=True)
class Timing:
    """What a race gave."""

    case: Case
    stands_for: tuple[str, ...]
    batch: int
    against: str
    ratio: Ratio
    verdict: Verdict
    executed: str

    def as_json(self) -> dict[str, Any]:
        """Flat, as the report's ``latency`` has it; ``ratio`` is time / time of the other, below 1 is faster."""
        ratio = asdict(self.ratio)
        return {
            "id": self.case.id,
            **self.case.fields(),
            "stands_for": list(self.stands_for),
            "batch": self.batch,
            "against": self.against,
            "ratio": ratio.pop("value"),
            **ratio,
            "speedup": self.ratio.speedup,
            "verdict": self.verdict.name,
            "reason": self.verdict.reason,
            "red": self.verdict.red,
            "executed": self.executed,
        }


def race(pipeline: Pipeline, case: Case, batch: int, bar: Bar, base: Path | None = None) -> Race:
    """Load what is to be timed: the case against the float case of its runtime, or against its namesake in `base`.

    Raises `Unsupported` for a batch that a model of fixed batch does not take, `NoData` when `base` lacks the case,
    and whatever `Pipeline.artifact` does.
    """
    if pipeline.fixed_batch not in (None, batch):
        raise Unsupported(f"the model's batch is fixed at {pipeline.fixed_batch}")
    backend, own = backend_of(case), pipeline.artifact(case).path
    rival = case
    if base is None:
        rival = float_case(case)
        other = pipeline.artifact(rival).path
    else:
        if not base.is_dir():
            raise PtqError(f"--ptq-against {base}: no such folder; fill it with --ptq-artifacts at the other revision")
        other = base / f"{case.id}{own.suffix}"
        if not other.is_file():
            raise NoData(f"no {other.name} in the folder given with --ptq-against; save it there with --ptq-artifacts")
        bar = Bar(bar.pattern, bar.why, max_ratio=SAME, confidence=bar.confidence)
    return Race(
        case=case,
        stands_for=(case.id,),
        batch=batch,
        against=FP32 if base is None else "base",
        reference=backend_of(rival).load(other, THREADS),
        predict=backend.load(own, THREADS),
        inputs=_inputs(pipeline.evaluation_samples, batch),
        bar=bar,
        census=pipeline.census(case),
        sizes={"size_bytes": own.stat().st_size, "reference_size_bytes": other.stat().st_size},
    )


def executed(census: Census) -> str:
    """In words: ``3 of 9 Conv, 1 of 1 Gemm in integer``."""
    kinds = sorted({*census.integer, *census.floating})
    counts = [(kind, census.integer.get(kind, 0), census.floating.get(kind, 0)) for kind in kinds]
    words = ", ".join(f"{integer} of {integer + floating} {kind}" for kind, integer, floating in counts)
    return f"{words} in integer" if census.simulated is None else f"simulated: {census.simulated}"


def _inputs(samples: Samples, batch: int) -> Float32:
    first = next(iter(samples.batches(batch)))
    return np.ascontiguousarray(np.resize(first, (batch, *first.shape[1:])))
