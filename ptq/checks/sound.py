"""Sound: whether a workload's float model is of any use as the reference its cases are held against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptq.backends.protocol import Backend, Predictor
from ptq.checks.float_accuracy import batch_size, fault
from ptq.checks.near import leak
from ptq.data.contract import InputContract
from ptq.data.signature import Signature
from ptq.engine.pipeline import Pipeline
from ptq.engine.predictions import execution
from ptq.engine.registry import reference_case
from ptq.engine.sample_set import SampleSet
from ptq.engine.step import Notes, Step
from ptq.metrics.top1 import Top1

if TYPE_CHECKING:
    from ptq.engine.store import Entry, Store


@dataclass(frozen=True, eq=False)
class Sound(Step):
    """What `ptq.checks.float_accuracy.fault` says of the float model and the evaluation samples, and `leak` of those
    beside `calibration` (None where that is not to be looked at); kept, for it costs.
    """

    kind: ClassVar[str] = "score"
    name: str
    backend: Backend
    versions: Mapping[str, str]
    artifact: Entry
    samples: SampleSet
    calibration: SampleSet | None
    signature: Signature
    contracts: Mapping[str, InputContract]
    classifies: bool
    output: str | None
    distinct: bool

    @property
    def title(self) -> str:
        return f"{self.name}: looking whether the float model is of use"

    def settings(self) -> Mapping[str, Any]:
        return {
            **execution(self.backend, self.versions, self.artifact),
            "evaluation": self.samples.identity,
            "calibration": None if self.calibration is None else self.calibration.identity,
            "contracts": self.contracts,
            "classifies": self.classifies,
            "output": self.output,
            "distinct": self.distinct,
        }

    def code(self) -> tuple[object, ...]:
        return (self.backend, fault, leak)

    def make(self, out: Path, store: Store) -> Notes | None:
        predict = chosen(self.backend.load(self.artifact.path), self.output)
        samples = self.samples.fitted(self.signature)
        said = fault(predict, samples, self.contracts, classifies=self.classifies, distinct=self.distinct)
        if said is None and self.calibration is not None:
            said = leak(self.calibration.fitted(self.signature), samples, batch_size(self.contracts))
        out.write_text(json.dumps(said))
        return None


def sound(pipeline: Pipeline) -> str | None:
    """Why the float model is no reference, in one line; None when it may be. Raises what `Pipeline.artifact` does."""
    case = reference_case(pipeline.workload.name)
    step = Sound(
        name=pipeline.workload.name,
        backend=pipeline.registry.backend(case),
        versions=pipeline.registry.versions(case.backend),
        artifact=pipeline.artifact(case),
        samples=pipeline.sample_sets["evaluation"],
        calibration=None if "disjoint" in pipeline.workload.unchecked else pipeline.sample_sets["calibration"],
        signature=pipeline.signature,
        contracts=pipeline.contracts,
        classifies=classifies(pipeline),
        output=output(pipeline),
        distinct="distinct" not in pipeline.workload.unchecked,
    )
    said = json.loads(pipeline.store.get(step).path.read_text())
    return None if said is None else str(said)


def classifies(pipeline: Pipeline) -> bool:
    """Whether the targets are the classes the largest output names: of a metric of one's own that is not known."""
    metric = pipeline.workload.metric
    return isinstance(metric, Top1) or (metric is None and pipeline.facts("evaluation").targets == "classes")


def output(pipeline: Pipeline) -> str | None:
    """The output top-1 looks at; None: the first."""
    metric = pipeline.workload.metric
    return metric.output if isinstance(metric, Top1) else None


def chosen(predict: Predictor, name: str | None) -> Predictor:
    """A predictor of one output alone; all of them for None."""
    return predict if name is None else lambda batch: {name: predict(batch)[name]}
