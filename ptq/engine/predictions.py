"""The steps of an artifact that is there: what it says of the evaluation samples, and what of it really runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ptq.backends.protocol import Backend
from ptq.cases import Case
from ptq.data.batch import Batch, as_batch
from ptq.data.blocks import Blocks
from ptq.data.contract import InputContract
from ptq.data.samples import Samples, order_of
from ptq.data.signature import Signature
from ptq.engine.sample_set import CheckedSamples, SampleSet
from ptq.engine.step import Notes, Step
from ptq.errors import BadData
from ptq.metrics.metric import Metric

if TYPE_CHECKING:
    from ptq.engine.store import Entry, Store


EVALUATED = 2000
"""Evaluation samples of a block, as far as batches fit in: of fewer, loading the artifact would be much of the work."""
SMALL = 1 << 14
"""The most values that a model may give of a sample for it to be evaluated in blocks."""


def execution(backend: Backend, versions: Mapping[str, str], artifact: Entry) -> Mapping[str, Any]:
    """What decides how an artifact runs, beside the CPU, which every key holds."""
    return {
        "artifact": artifact.digest,
        "backend": backend,
        "versions": versions,
    }


@dataclass(frozen=True, eq=False)
class Evaluation(Step):
    """An artifact, what it is run on, and in batches of how many."""

    kind: ClassVar[str] = "predictions"
    case: Case
    backend: Backend
    versions: Mapping[str, str]
    artifact: Entry
    samples: SampleSet
    signature: Signature
    contracts: Mapping[str, InputContract]
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
            "batch": self.batch,
        }

    def code(self) -> tuple[object, ...]:
        return (self.backend,)

    @property
    def checked(self) -> CheckedSamples:
        """The samples, every batch held to the contracts."""
        return CheckedSamples(self.samples, self.signature, self.contracts)

    def outputs(self, samples: Samples) -> Iterator[Batch]:
        """What the artifact says of every batch, the sample first."""
        predict = self.backend.load(self.artifact.path)
        said = (predict(as_batch(batch)) for batch in samples.batches(self.batch))
        axes = [tensor.axis for tensor in self.signature.outputs]
        return map(partial(_samples_first, axes), said) if any(axes) else said


@dataclass(frozen=True, eq=False)
class PredictBlock(Evaluation):
    """What an artifact says of a block of evaluation samples, whatever the metric makes of it: see `block_length`."""

    number: int

    def settings(self) -> Mapping[str, Any]:
        return {**super().settings(), "block": self.number}

    def make(self, out: Path, store: Store) -> Notes | None:
        length = block_length(self.signature, self.batch)
        assert length is not None  # else there are no blocks
        block = Blocks(self.checked, self.number, self.number + 1, length)
        batches = list(self.outputs(block))
        _save(out, [list(batch) for batch in batches], [values for batch in batches for values in batch.values()])
        return None


@dataclass(frozen=True, eq=False)
class Predict(Evaluation):
    """What an artifact says of every evaluation sample, reduced by the metric's `collect`. Where others made all blocks
    of it, nothing is run here: batches are the same, so are the bytes.
    """

    metric: Metric

    def settings(self) -> Mapping[str, Any]:
        return {**super().settings(), "metric": self.metric}

    def code(self) -> tuple[object, ...]:
        return (self.backend, self.metric)

    @property
    def parts(self) -> list[PredictBlock]:
        """The steps of all blocks; none where there is but one."""
        count = block_count(self.samples.facts.n, self.signature, self.batch)
        if count == 1 or order_of(self.samples.raw) is not None:
            return []
        fields = (self.case, self.backend, self.versions, self.artifact, self.samples, self.signature, self.contracts)
        return [PredictBlock(*fields, self.batch, number) for number in range(count)]

    def make(self, out: Path, store: Store) -> Notes | None:
        blocks = store.all_of(self.parts)
        outputs = chain.from_iterable(map(_batches, blocks)) if blocks else self.outputs(self.checked)
        kept = self.metric.collect(_in_order(outputs, self.checked), self.samples.raw)
        _save(out, list(kept), kept.values())
        return None


def block_length(signature: Signature, batch: int) -> int | None:
    """How many evaluation samples are a block, whole batches; None where all are one: what a model says of a sample is
    kept until all blocks are there, so it should be known to be small.
    """
    sizes = [tensor.shape[1:] for tensor in signature.outputs]
    if any(None in size for size in sizes) or sum(math.prod(map(int, filter(None, size))) for size in sizes) > SMALL:
        return None
    return max(EVALUATED // batch, 1) * batch


def block_count(samples: int, signature: Signature, batch: int) -> int:
    """How many blocks evaluation samples are."""
    return -(-samples // (block_length(signature, batch) or samples))


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
    names, arrays = _load(path)
    return dict(zip(names, arrays, strict=True))


def _batches(path: Path) -> Iterator[Batch]:
    """What `PredictBlock` wrote."""
    names, arrays = _load(path)
    for some in names:
        yield {name: next(arrays) for name in some}


def _save(out: Path, names: Sequence[Any], arrays: Iterable[np.ndarray]) -> None:
    # by number: an output may be called anything, `file` too
    values = {f"v{at}": np.asarray(array) for at, array in enumerate(arrays)}
    with out.open("wb") as file:
        np.savez(file, allow_pickle=False, names=np.frombuffer(json.dumps(names).encode(), np.uint8), **values)


def _load(path: Path) -> tuple[list[Any], Iterator[np.ndarray]]:
    with np.load(path, allow_pickle=False) as arrays:
        return json.loads(arrays["names"].tobytes()), iter([arrays[f"v{at}"] for at in range(len(arrays) - 1)])


def _samples_first(axes: Sequence[int], said: Batch) -> Batch:
    """Outputs, in the model's order, with the dimension that counts samples first."""
    pairs = zip(said.items(), axes, strict=True)
    return {name: np.ascontiguousarray(np.moveaxis(values, axis, 0)) for (name, values), axis in pairs}


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
        raise BadData(
            f"{samples.where}: outputs of {len(rows)} samples, but should be {len(order)}, one row each: if its "
            "samples lie along another dimension than the first, export it with that dimension named as the input's is"
        )
    for row in np.argsort(order):
        yield rows[row]
