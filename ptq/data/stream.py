"""StreamSamples: samples from whatever gives batches and can be iterated again; one batch is in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ptq.data.batch import UNNAMED, Array, joined, size_of
from ptq.data.samples import ArraySamples
from ptq.data.signature import Signature
from ptq.errors import BadData

TRUTH = ("targets", "labels")
"""Names of arrays that hold the truth, unless the model has an input of that name."""


@dataclass(frozen=True)
class Again:
    """What a function gives, asked anew on each pass: a generator function can be iterated as often as one likes."""

    function: Callable[[], Iterable[Any]]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.function())


@dataclass(frozen=True, eq=False)
class StreamSamples:
    """Samples from an iterable of batches.

    Parameters
    ----------
    source: gives arrays, mappings by input name, or pairs (inputs, targets); the same ones on each pass. Each holds
        samples along its first dimension, or, where the model's signature shows one dimension less, is one sample.
    name: what messages call it.
    signature: what the model takes, None when it is not known.

    The first pass counts the samples and hashes them. `BadData` when there is none, when only some have targets, or
    when a later pass gives other samples.
    """

    source: Iterable[Any]
    name: str
    signature: Signature | None = None
    class_names: tuple[str, ...] = ()
    seed: int | None = None

    @property
    def targets(self) -> Any:
        """The truth, shape (N, ...); None when none was given."""
        return self._seen[1]

    @property
    def order(self) -> None:
        """Samples come in their own order."""
        return None

    @cached_property
    def digest(self) -> str:
        whole = hashlib.sha256("".join(self.hashes()).encode())
        if self.targets is not None:
            whole.update(repr((self.targets.dtype.str, self.targets.shape)).encode() + self.targets.tobytes())
        return whole.hexdigest()

    def __len__(self) -> int:
        return len(self.hashes())

    def hashes(self) -> tuple[str, ...]:
        return self._seen[0]

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """Up to `size` samples of one shape at a time: what is larger is cut, what is smaller and alike is joined."""
        pending: list[dict[str, Array]] = []
        for piece in self._pieces(size):
            full = sum(map(size_of, pending)) + size_of(piece) > size
            if pending and (full or _shapes(pending[0]) != _shapes(piece)):
                yield joined(pending)
                pending = []
            pending.append(piece)
        if pending:
            yield joined(pending)

    def _pieces(self, size: int) -> Iterator[dict[str, Array]]:
        known, done = self.hashes(), 0
        for batch, _ in self._parts():
            count = size_of(batch)
            if ArraySamples(batch).hashes() != known[done : done + count]:
                raise BadData(
                    f"{self.name}: gives other samples than on the first pass (from {done} on), but should give the "
                    "same; likely cause: shuffle=True, or random numbers without a seed"
                )
            done += count
            for start in range(0, count, size):
                yield {name: values[start : start + size] for name, values in batch.items()}
        if done != len(known):
            raise BadData(
                f"{self.name}: {len(known)} samples on the first pass, {done} on a later one, but should be the same: "
                "give something that can be iterated again, e.g. a list"
            )

    @cached_property
    def _seen(self) -> tuple[tuple[str, ...], Any]:
        hashes: list[str] = []
        targets: list[Array] = []
        parts = 0
        for batch, truth in self._parts():
            hashes += ArraySamples(batch, name=self.name).hashes()
            parts += 1
            if truth is not None:
                if len(truth) != size_of(batch):
                    raise BadData(f"{self.name}: {len(truth)} targets for {size_of(batch)} samples: give one a sample")
                targets.append(truth)
        if not hashes:
            raise BadData(f"{self.name}: 0 samples, but there should be at least 1")
        if targets and (len(targets) != parts or len({truth.shape[1:] for truth in targets}) > 1):
            raise BadData(f"{self.name}: targets with {len(targets)} of {parts} batches, but all or none should have")
        return tuple(hashes), np.concatenate(targets) if targets else None

    def _parts(self) -> Iterator[tuple[dict[str, Array], Array | None]]:
        for number, item in enumerate(self.source):
            where = f"{self.name}: batch {number}"
            inputs, truth = parted(item, self.signature)
            batch = {name: array_of(values, where) for name, values in inputs.items()}
            if is_sample(batch, self.signature):
                batch = {name: values[None] for name, values in batch.items()}
            if not batch or any(values.ndim == 0 for values in batch.values()):
                raise BadData(f"{where}: a single number or nothing, but should be an array of shape (n, ...)")
            yield batch, None if truth is None else np.atleast_1d(truth_of(truth, where))


def parted(item: Any, signature: Signature | None) -> tuple[dict[str, Any], Any]:
    """(inputs by name, targets or None) of what stands for a batch or a sample."""
    truth = None
    if isinstance(item, list | tuple) and item and _is_inputs(item[0]) and len(item) <= 2:
        item, truth = item[0], item[1] if len(item) == 2 else None
    if not isinstance(item, Mapping):
        return {UNNAMED: item}, truth
    entries = {tensor.name for tensor in signature.inputs} if signature else set()
    inputs = {str(name): values for name, values in item.items() if name in entries or name not in TRUTH}
    if len(entries) == 1 and len(inputs) == 1:
        inputs = {UNNAMED: next(iter(inputs.values()))}  # one array, one input: it can mean nothing else
    given = [item[name] for name in TRUTH if name in item and name not in entries]
    return inputs, given[0] if given else truth


def truth_of(values: Any, where: str) -> Array:
    """Targets as an array, numbers or the texts a recognizer should read; `BadData` as `array_of`."""
    return array_of(values, where, kinds="biufU")


def array_of(values: Any, where: str, kinds: str = "biuf") -> Array:
    """`values` as an array; `BadData` for rows of different length, and for what is no array of numbers."""
    try:
        array = np.asarray(values)
    except Exception as error:  # of any library's tensor
        raise BadData(f"{where}: {type(values).__name__} cannot become a numpy array: convert it first") from error
    if array.dtype.kind not in kinds:
        raise BadData(
            f"{where}: {array.dtype} values, but should be an array of numbers; samples of different shape are given "
            "one by one"
        )
    return array


def is_sample(batch: Mapping[str, Array], signature: Signature | None) -> bool:
    """Whether every array has one dimension less than the model's input: one sample, not a batch of them."""
    if signature is None or not batch:
        return False
    ranks = {tensor.name: len(tensor.shape) for tensor in signature.inputs}
    if set(batch) == {UNNAMED}:
        ranks = {UNNAMED: len(signature.inputs[0].shape)}
    return all(name in ranks and values.ndim == ranks[name] - 1 for name, values in batch.items())


def _is_inputs(value: Any) -> bool:
    return isinstance(value, Mapping) or hasattr(value, "__array__")


def _shapes(batch: Mapping[str, Array]) -> list[tuple[int, ...]]:
    return [values.shape[1:] for values in batch.values()]
