"""Race: a case timed against the float model, or against its own artifact of another revision, in one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptq.backends.protocol import Census, Predictor
from ptq.cases import FP32, Case
from ptq.data.batch import Batch, size_of
from ptq.data.samples import FittedSamples
from ptq.engine.environment import instruction_sets
from ptq.engine.pipeline import Pipeline
from ptq.errors import NoData, PtqError, Unsupported
from ptq.latency.fastest import Fastest
from ptq.latency.ratio import SAME as SAME
from ptq.latency.ratio import Budget, Ratio, clock_for, measure_ratio

BATCHES = (1, 64)
"""Batch sizes that are timed: a camera's and a server's."""
THREADS = 1
"""Of the first race: the ratio of two models then does not depend on who else wants a core."""
BASE = "base"
"""What an artifact of another revision is called; it is held to `SAME`."""


@dataclass(frozen=True)
class Times:
    """What a race gave: `one` on one thread, `many` on `threads`, all this process may use; None where that is one.

    `fastest` is against the fastest float model of any runtime, on one thread; None where it took no part.
    """

    one: Ratio
    threads: int
    many: Ratio | None
    fastest: Ratio | None = None


@dataclass(frozen=True, eq=False)
class Race:
    """Two predictors of one runtime and the inputs both take.

    `reference` and `predict` run on one thread; `load` loads both again, to run on as many as it is told.

    `against` names the other: ``fp32``, or `BASE`. `limit` is the ratio it will be held to, None when there is none:
    timing stops as soon as the ratio is clear of it. `stands_for` are the ids of the cases that run the same graph, its
    own among them. `rival` is the case `reference` is of; `fastest` the fastest float model of any runtime, None where
    that is no matter, and `fastest_limit` as `limit`.
    """

    case: Case
    stands_for: tuple[str, ...]
    batch: int
    against: str
    reference: Predictor
    predict: Predictor
    inputs: Batch
    limit: float | None
    census: Census
    sizes: Mapping[str, int]
    load: Callable[[int], tuple[Predictor, Predictor]]
    rival: Case | None = None
    fastest: Fastest | None = None
    fastest_limit: float | None = None

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

    def run(self, budget: Budget | None = None) -> Times:
        """Time both in turns, on one thread, then against the fastest of any runtime, then on all threads, by the wall
        clock: these for no longer than the first took.
        """
        budget, threads = budget or Budget(), _cores()
        one = measure_ratio(self.reference, self.predict, self.inputs, self.limit, budget)
        again = replace(budget, seconds=min(budget.seconds, max(one.seconds, 1e-3)))
        fastest, best = None, self.fastest
        if best is not None:
            own = best.case == self.rival
            fastest = one if own else measure_ratio(best.predict, self.predict, self.inputs, self.fastest_limit, again)
        many = None
        if threads != THREADS:
            many = measure_ratio(*self.load(threads), self.inputs, self.limit, again, clock_for(threads))
        return Times(one, threads, many, fastest)


def race(
    pipeline: Pipeline, case: Case, batch: int, limit: float | None, base: Path | None, stands_for: tuple[str, ...]
) -> Race:
    """Load what is to be timed: the case against the float case of its runtime, or against its namesake in `base`.

    `limit` is of the race against the float case; against `base` it is `SAME`. Raises `Unsupported` for a batch that a
    model of fixed batch does not take, `NoData` when `base` lacks the case, and whatever `Pipeline.artifact` does.
    """
    if pipeline.fixed_batch not in (None, batch):
        raise Unsupported(f"the model's batch is fixed at {pipeline.fixed_batch}")
    own, registry = pipeline.artifact(case).path, pipeline.registry
    rival = case
    if base is None:
        rival = registry.float_case(case)
        other = pipeline.artifact(rival).path
    else:
        if not base.is_dir():
            raise PtqError(f"--ptq-against {base}: no such folder; fill it with --ptq-artifacts at the other revision")
        other = base / f"{case.id}{own.suffix}"
        if not other.is_file():
            raise NoData(f"no {other.name} in the folder given with --ptq-against; save it there with --ptq-artifacts")

    def load(threads: int) -> tuple[Predictor, Predictor]:
        return registry.backend(rival).load(other, threads), pipeline.predictor(case, threads)

    reference, predict = load(THREADS)
    return Race(
        case=case,
        stands_for=stands_for,
        batch=batch,
        against=FP32 if base is None else BASE,
        reference=reference,
        predict=predict,
        inputs=_inputs(pipeline.evaluation_samples, batch),
        limit=limit if base is None else SAME,
        census=pipeline.census(case),
        sizes={"size_bytes": own.stat().st_size, "reference_size_bytes": other.stat().st_size},
        load=load,
        rival=rival,
    )


def executed(census: Census) -> str:
    """In words: ``3 of 9 Conv, 1 of 1 Gemm in integer``."""
    kinds = sorted({*census.integer, *census.floating})
    counts = [(kind, census.integer.get(kind, 0), census.floating.get(kind, 0)) for kind in kinds]
    words = ", ".join(f"{integer} of {integer + floating} {kind}" for kind, integer, floating in counts)
    return f"{words} in integer" if census.simulated is None else f"simulated: {census.simulated}"


def _cores() -> int:
    """How many threads this process may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _inputs(samples: FittedSamples, batch: int) -> Batch:
    """The first `batch` samples; of samples that come by their shape, those in the middle, for the first are the
    shortest. Too few of one shape are taken over and over."""
    skipped = 0 if samples.order is None else len(samples) // 2
    for chosen in samples.batches(batch):
        skipped -= size_of(chosen)
        if skipped < 0:
            break
    return {
        name: np.ascontiguousarray(np.resize(values, (batch, *values.shape[1:]))) for name, values in chosen.items()
    }
