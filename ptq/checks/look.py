"""Look: what a preprocessing check found in order, kept: to read and decode every sample anew costs minutes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptq.checks.preprocessing import MODEL, PIPELINE, Check, subject
from ptq.checks.sound import classifies, output
from ptq.data.reader import Reader
from ptq.engine.environment import versions
from ptq.engine.pipeline import Pipeline
from ptq.engine.predictions import execution
from ptq.engine.registry import reference_case
from ptq.engine.sample_set import DECODERS
from ptq.engine.step import Notes, Step
from ptq.stamps import known_digest

if TYPE_CHECKING:
    from ptq.engine.store import Store


@dataclass(frozen=True, eq=False)
class Look(Step):
    """That a check found nothing amiss in a workload; or, as the store keeps it, why it does not apply.

    What is amiss is raised, and looked for again in the next run.
    """

    kind: ClassVar[str] = "check"
    pipeline: Pipeline
    check: Check

    @property
    def title(self) -> str:
        return f"{self.pipeline.workload.name}: {self.check.name}"

    def settings(self) -> Mapping[str, Any]:
        pipeline, workload = self.pipeline, self.pipeline.workload
        needs: Mapping[str, Any] = {}
        if self.check.needs == MODEL:
            case = reference_case(workload.name)
            runs = execution(pipeline.registry.backend(case), self._versions, pipeline.artifact(case))
            needs = {**runs, "output": output(pipeline)}
        elif self.check.needs == PIPELINE and isinstance(workload.as_evaluated, Reader):
            files = [(path.name, known_digest(path)) for path in workload.as_evaluated.files()]
            needs = {"as_evaluated": [files, workload.as_evaluated.read, versions(DECODERS)]}
        return {
            **needs,
            "check": self.check.name,
            "unchecked": workload.unchecked.get(self.check.name),
            "samples": {name: given.identity for name, given in pipeline.sample_sets.items()},
            "readers": {name: getattr(read, "read", read) for name, read in pipeline.readers.items()},
            "signature": pipeline.signature,
            "contracts": pipeline.contracts,
            "invariants": workload.invariants,
            "classifies": classifies(pipeline),
        }

    def code(self) -> tuple[object, ...]:
        workload = self.pipeline.workload
        reads = [getattr(read, "read", read) for read in (*self.pipeline.readers.values(), workload.as_evaluated)]
        backend = self.pipeline.registry.backend(reference_case(workload.name)) if self.check.needs == MODEL else None
        return (self.check.look, backend, *workload.invariants.values(), *reads)

    def make(self, out: Path, store: Store) -> Notes | None:
        self.check.run(subject(self.pipeline))
        out.write_text("null")
        return None

    @property
    def _versions(self) -> Mapping[str, str]:
        return self.pipeline.registry.versions(reference_case(self.pipeline.workload.name).backend)


def looked(pipeline: Pipeline, check: Check) -> None:
    """Run a check, unless it is known that it holds. Raises what `Check.run` does."""
    read = pipeline.workload.as_evaluated
    if check.needs == PIPELINE and read is not None and not isinstance(read, Reader):
        check.run(subject(pipeline))  # nobody knows which files it reads
    else:
        pipeline.store.get(Look(pipeline, check))
