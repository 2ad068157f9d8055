"""Fastest: the float model, of any runtime, that a quantized one has to beat."""

from __future__ import annotations

from dataclasses import dataclass

from ptq.backends.protocol import Predictor
from ptq.cases import Case
from ptq.data.batch import Batch
from ptq.engine.pipeline import Pipeline
from ptq.errors import PtqError
from ptq.latency.ratio import Budget, measure_ratio

_BUDGET = Budget(seconds=3.0)


@dataclass(frozen=True, eq=False)
class Fastest:
    """A float case and its predictor, on one thread."""

    case: Case
    predict: Predictor


def fastest(pipeline: Pipeline, inputs: Batch, budget: Budget = _BUDGET) -> Fastest | None:
    """The fastest on `inputs` of the float cases of a workload's runtimes; None when none of them runs.

    One after the other is timed in turns with the fastest so far, so that drift of the machine decides nothing. A
    float case that cannot be had here (its framework is absent, its converter refuses the model) takes no part.
    """
    best: Fastest | None = None
    for case in dict.fromkeys(pipeline.registry.float_case(each) for each in pipeline.cases()):
        try:
            other = Fastest(case, pipeline.predictor(case))
            if best is None or measure_ratio(best.predict, other.predict, inputs, 1.0, budget).value < 1:
                best = other
        except PtqError:
            continue
    return best
