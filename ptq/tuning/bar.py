"""Bar: what the search of a model has to meet."""

from __future__ import annotations

from dataclasses import dataclass

from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import reference_case
from ptq.errors import PtqError
from ptq.metrics.metric import SHARE

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Bar:
    """`max_drop`, the largest loss against the float model in percentage points of a share, else in the metric's unit;
    or `floor`, the least value of the metric, the largest where lower is better.
    """

    max_drop: float | None = None
    floor: float | None = None

    def __post_init__(self) -> None:
        if (self.max_drop is None) == (self.floor is None):
            raise PtqError("a search is held to max_drop or to floor, but should be to one of them")

    def __str__(self) -> str:
        return f"max_drop = {self.max_drop:g}" if self.max_drop is not None else f"floor = {self.floor:g}"

    def allowed(self, pipeline: Pipeline) -> float:
        """The largest drop that meets it on the pipeline's samples; a `PtqError` where the metric knows no drop."""
        metric = pipeline.metric
        if self.floor is not None:
            value = pipeline.measured(reference_case(pipeline.workload.name), CONFIDENCE).compared.fp32.value
            fell = value - self.floor
            return (100 if metric.unit == SHARE else 1) * (fell if metric.higher_is_better else -fell)
        if not metric.has_drop:
            raise PtqError(
                f"{self}, but no truth was given: answers are judged by their {metric.name} against the float model's, "
                f"so floor should be given, in {metric.unit}, or the truth"
            )
        return float(self.max_drop or 0.0)
