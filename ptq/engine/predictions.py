"""The steps of an artifact that is there: what it says of the evaluation samples, and what of it really runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ptq.backends.protocol import Backend
from ptq.cases import Case
from ptq.data.batch import Batch
from ptq.data.contract import InputContract
from ptq.data.signature import Signature
from ptq.engine.sample_set import CheckedSamples, SampleSet
from ptq.engine.step import Notes, Step
from ptq.errors import BadData
from ptq.metrics.metric import Metric

if TYPE_CHECKING:
    from ptq.engine.store import Entry, Store


def execution(backend: Backend, versions: Mapping[str, str], artifact: Entry) -> Mapping[str, Any]:
    """What decides how an artifact runs, beside the CPU, which every key holds."""
    return {
        "artifact": artifact.digest,
        "backend": backend,
        "versions": versions,
    }


@dataclass(frozen=True, eq=False)
class Predict(Step):
    """What an artifact says of every evaluation sample, reduced by the metric's `collect`."""

    kind: ClassVar[str] = "predictions"
    case: Case
    backend: Backend
    versions: Mapping[str, str]
    artifact: Entry
    samples: SampleSet
    signature: Signature
    contracts: Mapping[str, InputContract]
    metric: Metric
    batch: int

    @property
    def suffix(self) -> str:
        return ".npz"

    @property
    def title(self) -> str:
        return f"{self.case}: evaluating {self.samples.facts.n} samples"

    def settings(self) -> Mapping[str, Any]:
        return {
            **execution(self.backend, self.versions, self.artifact),
            "evaluation": self.samples.identity,
            "contracts": self.contracts,
            "metric": self.metric,
            "batch": self.batch,
        }

    def code(self) -> tuple[object, ...]:
        return (self.backend, self.metric)

    def make(self, out: Path, store: Store) -> Notes | None:
        predict = self.backend.load(self.artifact.path)
        samples = CheckedSamples(self.samples, self.signature, self.contracts)
        outputs = (predict(batch) for batch in samples.batches(self.batch))
        kept = self.metric.collect(_in_order(outputs, samples), self.samples.raw)
        # by number: an output may be called anything, `file` too
        names = np.frombuffer(json.dumps(list(kept)).encode(), np.uint8)
        values = {f"v{at}": np.asarray(array) for at, array in enumerate(kept.values())}
        with out.open("wb") as file:
            np.savez(file, allow_pickle=False, names=names, **values)
        return None


@dataclass(frozen=True, eq=False)
class Count(Step):
    """What the runtime executes for an artifact; kept, so that a second run loads no framework."""

    kind: ClassVar[str] = "census"
    case: Case
    backend: Backend
    versions: Mapping[str, str]
    artifact: Entry

    @property
    def title(self) -> str:
        return f"{self.case}: counting what runs in integer"

    def settings(self) -> Mapping[str, Any]:
        return execution(self.backend, self.versions, self.artifact)

    def code(self) -> tuple[object, ...]:
        return (self.backend,)

    def make(self, out: Path, store: Store) -> Notes | None:
        out.write_text(json.dumps(asdict(self.backend.census(self.artifact.path)), sort_keys=True))
        return None


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """What `Predict` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[f"v{at}"] for at, name in enumerate(json.loads(arrays["names"].tobytes()))}


def _in_order(outputs: Iterator[Batch], samples: CheckedSamples) -> Iterator[Batch]:
    """Output batches in the order of the samples: where samples come sorted by shape, one sample at a time."""
    order = samples.order
    if order is None:
        yield from outputs
        return
    rows: list[Batch] = []
    for batch in outputs:
        count = len(next(iter(batch.values())))
        rows += [{name: values[row : row + 1] for name, values in batch.items()} for row in range(count)]
    if sorted(order.tolist()) != list(range(len(rows))):
        raise BadData(f"{samples.where}: order should name each of {len(rows)} samples once")
    for row in np.argsort(order):
        yield rows[row]
