"""Blocks: samples in runs of a fixed length, so that what a part shows does not depend on where the others are seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ptq.data.batch import Array, Batch, as_batch, joined, size_of
from ptq.data.samples import FittedSamples, Order, Samples, order_of

BLOCK = 480
"""Samples of a block, a multiple of every pass's batch: where samples are small, blocks change no batch."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """`samples` from block `first` up to `stop`, of `length` samples each; no batch reaches from one into the next.

    The rest is as of the whole: `order` tells the index there of every row.
    """

    samples: Samples
    first: int
    stop: int
    length: int

    @property
    def count(self) -> int:
        """How many blocks the whole has."""
        return -(-len(self.samples) // self.length)

    @property
    def start(self) -> int:
        """The place of the first row in the whole."""
        return min(self.first * self.length, len(self.samples))

    @property
    def order(self) -> Order | None:
        known = order_of(self.samples)
        return np.arange(self.start, self.start + len(self), dtype=np.int64) if known is None and self.start else known

    def one(self, number: int) -> Blocks:
        """One block of the whole."""
        return replace(self, first=number, stop=number + 1)

    def __len__(self) -> int:
        return min(self.stop * self.length, len(self.samples)) - self.start

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # while it is copied
            raise AttributeError(name)
        return getattr(self.samples, name)

    def batches(self, size: int) -> Iterator[Array | Batch]:
        if self.count == 1:
            yield from self.samples.batches(size)
            return
        pending: list[dict[str, Array]] = []
        held = place = 0  # rows that wait, and rows that were given
        for piece in self._pieces(size):
            low = 0
            while low < size_of(piece):
                full = min(size, self.length - place % self.length)
                taken = {name: values[low : low + full - held] for name, values in piece.items()}
                pending.append(taken)
                low, held = low + size_of(taken), held + size_of(taken)
                if held == full:
                    yield pending[0] if len(pending) == 1 else joined(pending)
                    place, held, pending = place + held, 0, []
        if pending:
            yield joined(pending)

    def _pieces(self, size: int) -> Iterator[Batch]:
        """The rows in batches of any length; what is left out is neither decoded nor checked where that can be."""
        start, stop = self.start, self.start + len(self)
        if isinstance(self.samples, FittedSamples):
            return self.samples.fit(_Rows(self.samples.samples, start, stop).batches(size))
        return map(as_batch, _Rows(self.samples, start, stop).batches(size))


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of samples from `start` up to `stop`."""

    samples: Samples
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.samples, name)

    def batches(self, size: int) -> Iterator[Array | Batch]:
        read = getattr(self.samples, "read", None)
        if read is not None:  # files
            for start in range(self.start, self.stop, size):
                yield np.stack([read(index) for index in range(start, min(start + size, self.stop))])
            return
        seen = 0
        for batch in map(as_batch, self.samples.batches(size)):
            low, high = max(self.start - seen, 0), min(self.stop - seen, size_of(batch))
            seen += size_of(batch)
            if low < high:
                yield {name: values[low:high] for name, values in batch.items()}
            if seen >= self.stop:
                return


def whole(samples: Samples, fixed: int | None = None) -> Blocks:
    """All samples, in blocks; in one where they come sorted by shape, or the model's own batch does not fit in."""
    if isinstance(samples, Blocks):
        return samples
    single = order_of(samples) is not None or (fixed is not None and BLOCK % fixed != 0)
    length = max(len(samples), 1) if single else BLOCK
    return Blocks(samples, 0, -(-len(samples) // length), length)
