"""Samples: a fixed, re-iterable sequence of model inputs with a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ptq.data.batch import UNNAMED, Array, Batch, as_batch, fitted, size_of
from ptq.data.signature import Signature
from ptq.errors import BadData

Float32 = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Order = npt.NDArray[np.int64]


class Samples(Protocol):
    """What calibration and evaluation read.

    `seed` is what they were drawn with (None: not drawn). `targets` is the truth, one entry a sample: class indices of
    shape (N,), or whatever the workload's metric takes; None where there is none. `class_names` are by class index,
    empty when unknown. `digest` is a sha256 in hex over inputs and targets, in order.
    """

    @property
    def seed(self) -> int | None:
        """What they were drawn with; None: not drawn."""
        ...

    @property
    def targets(self) -> Any:
        """The truth, one entry a sample; None where there is none."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """By class index; empty when unknown."""
        ...

    @property
    def digest(self) -> str:
        """sha256 in hex over inputs and targets, in order."""
        ...

    @property
    def order(self) -> Order | None:
        """Sample index of every row `batches` gives, shape (N,); None when they come in their own order."""
        ...

    def __len__(self) -> int: ...
    def batches(self, size: int) -> Iterator[Array | Batch]:
        """`size` samples at a time, or fewer; starts anew on each call. All samples of a batch have one shape."""
        ...

    def hashes(self) -> tuple[str, ...]:
        """One sha256 in hex per sample, over its inputs' bytes: equal samples have equal hashes."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySamples:
    """Samples held in memory.

    Parameters
    ----------
    inputs: an array of shape (N, ...) for a model of one input, or arrays by input name. A list of N arrays stands for
        samples of different shape (sentences, images of any size): each has the shape (...) of one sample, and is run
        with its equals, never padded. Arrays are cast to the model's input types batch by batch, so uint8 images cost a
        quarter of float32.
    targets: the truth, an array of N entries: class indices for a classifier, anything its metric takes for another
        model; None when there is none.
    class_names: names by index; empty when unknown.
    seed: what the samples were drawn with, None when they were given.

    Raises `BadData` when inputs and targets differ in number, or there is not one sample.
    """

    inputs: Array | Sequence[Array] | Mapping[str, Array | Sequence[Array]]
    targets: Any = None
    class_names: tuple[str, ...] = ()
    seed: int | None = None
    name: str = field(default="samples")

    def __post_init__(self) -> None:
        columns = {name or "inputs": values for name, values in self._columns.items()}
        for name, values in {**columns, "targets": self.targets}.items():
            if getattr(values, "ndim", 1) == 0:
                raise BadData(
                    f"{self.name}: {name!r} is a single number, but should be an array (N, ...), or left out "
                    "and said by a contract: ptq.InputContract(..., constant=)"
                )
        lengths = {name: len(values) for name, values in columns.items()}
        if not lengths or 0 in lengths.values():
            raise BadData(f"{self.name}: 0 samples, but there should be at least 1")
        if len(set(lengths.values())) > 1:
            raise BadData(f"{self.name}: inputs of different length {lengths}, but should hold the same samples")
        if self.targets is not None and len(self.targets) != len(self):
            raise BadData(f"{self.name}: {len(self.targets)} targets, but there should be {len(self)}, one a sample")

    @cached_property
    def _columns(self) -> Mapping[str, Any]:
        return self.inputs if isinstance(self.inputs, Mapping) else {UNNAMED: self.inputs}

    @cached_property
    def _ragged(self) -> bool:
        return any(not isinstance(values, np.ndarray) for values in self._columns.values())

    @cached_property
    def order(self) -> Order | None:
        """By shape when samples differ in it: those of one shape follow one another."""
        if not self._ragged:
            return None
        shapes = [self._shapes(index) for index in range(len(self))]
        return np.array(sorted(range(len(self)), key=lambda index: (shapes[index], index)), dtype=np.int64)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Samples.batches`."""
        order = self.order
        if order is None:
            for start in range(0, len(self), size):
                yield {name: values[start : start + size] for name, values in self._columns.items()}
            return
        start = 0
        while start < len(order):
            stop = start + 1
            shape = self._shapes(order[start])
            while stop < len(order) and stop - start < size and self._shapes(order[stop]) == shape:
                stop += 1
            chosen = order[start:stop]
            yield {name: np.stack([np.asarray(values[at]) for at in chosen]) for name, values in self._columns.items()}
            start = stop

    def hashes(self) -> tuple[str, ...]:
        """As `Samples.hashes`."""
        return tuple(self._hash(index) for index in range(len(self)))

    @cached_property
    def digest(self) -> str:
        if set(self._columns) == {UNNAMED} and not self._ragged:
            whole = hashlib.sha256(repr(np.shape(self._columns[UNNAMED])).encode())
            for start in range(0, len(self), 256):
                whole.update(_content(self._columns[UNNAMED][start : start + 256]))
        else:
            whole = hashlib.sha256(repr(sorted(self._columns)).encode())
            for digest in self.hashes():
                whole.update(bytes.fromhex(digest))
        if self.targets is not None:
            targets = np.asarray(self.targets)
            whole.update(_numbers(targets) if targets.dtype != object else repr(self.targets).encode())
        return whole.hexdigest()

    def _shapes(self, index: int) -> tuple[tuple[int, ...], ...]:
        return tuple(np.shape(values[index]) for values in self._columns.values())

    def _hash(self, index: int) -> str:
        whole = hashlib.sha256()
        for name, values in sorted(self._columns.items()):
            row = np.asarray(values[index])
            whole.update(_content(row) if name == UNNAMED else f"{name} {row.shape} ".encode() + _content(row))
        return whole.hexdigest()


@dataclass(frozen=True, eq=False)
class FittedSamples:
    """Samples as a model takes them: batches named and cast by `ptq.data.batch.fitted`, the rest as it is.

    `where` starts the message when they do not fit.
    """

    samples: Samples
    signature: Signature
    where: str

    @property
    def seed(self) -> int | None:
        return self.samples.seed

    @property
    def targets(self) -> Any:
        return self.samples.targets

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.samples.class_names

    @property
    def digest(self) -> str:
        return self.samples.digest

    @property
    def order(self) -> Order | None:
        return order_of(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        seen = 0
        for batch in self.fit(self.samples.batches(size)):
            yield batch
            seen += size_of(batch)
        if seen != len(self):
            raise BadData(f"{self.where}: batches give {seen} samples, but len() says {len(self)}")

    def fit(self, batches: Iterable[Array | Batch]) -> Iterator[dict[str, Array]]:
        """Batches of these samples, or of some of them, as the model takes them."""
        return (fitted(batch, self.signature, self.where) for batch in batches)

    def hashes(self) -> tuple[str, ...]:
        return self.samples.hashes()


def order_of(samples: Samples) -> Order | None:
    """`Samples.order`; None for samples that do not say."""
    return getattr(samples, "order", None)


def labels_of(samples: Samples) -> Labels | None:
    """The targets as class indices, shape (N,); None when they are something else or there are none."""
    targets = samples.targets
    if not isinstance(targets, np.ndarray) or targets.dtype.kind not in "iu" or targets.ndim != 1:
        return None
    return targets.astype(np.int64)


def first_batch(samples: Samples, size: int) -> Batch:
    """The first batch, as a mapping."""
    return as_batch(next(iter(samples.batches(size))))


def _content(values: Array) -> bytes:
    """The bytes a model sees: numbers that are cast to float32 on the way in are taken as such."""
    cast = values.dtype == np.uint8 or values.dtype.kind == "f"
    return np.ascontiguousarray(values, dtype=np.float32 if cast else None).tobytes()


def _numbers(targets: Array) -> bytes:
    return np.ascontiguousarray(targets, dtype=np.int64 if targets.dtype.kind in "iub" else None).tobytes()
