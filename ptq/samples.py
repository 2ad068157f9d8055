"""Samples: a fixed, re-iterable sequence of model inputs with a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ptq.errors import BadData

Float32 = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


class Samples(Protocol):
    """What calibration and evaluation read: inputs as the model takes them, in a fixed order.

    `seed` is what they were drawn with (None: not drawn). `labels` are class indices, shape (N,), or None
    for a workload that is not a classifier. `digest` is a sha256 in hex over inputs and labels, in order.
    """

    @property
    def seed(self) -> int | None: ...
    @property
    def labels(self) -> Labels | None: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def digest(self) -> str: ...
    def __len__(self) -> int: ...
    def batches(self, size: int) -> Iterator[Float32]:
        """Inputs in order, `size` at a time (the last one may be shorter); starts anew on each call."""
        ...

    def hashes(self) -> tuple[str, ...]:
        """One sha256 in hex per input, over its bytes: equal images have equal hashes."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySamples:
    """Samples held in memory.

    Parameters
    ----------
    inputs: any array of shape (N, ...); cast to float32 batch by batch, so uint8 images cost a quarter.
    labels: class indices of shape (N,), or None.
    class_names: names by index; empty when unknown.
    seed: what the samples were drawn with, None when they were given.

    Raises `BadData` when labels and inputs differ in number, labels are not class indices, or there is not
    one sample.
    """

    inputs: npt.NDArray[np.generic]
    labels: Labels | None = None
    class_names: tuple[str, ...] = ()
    seed: int | None = None
    name: str = field(default="samples")

    def __post_init__(self) -> None:
        if len(self.inputs) == 0:
            raise BadData(f"{self.name}: 0 samples, but there should be at least 1")
        if self.labels is not None and len(self.labels) != len(self.inputs):
            raise BadData(
                f"{self.name}: {len(self.labels)} labels, but there should be {len(self.inputs)}, one an input"
            )
        if self.labels is not None:
            self._check_labels(np.asarray(self.labels))

    def _check_labels(self, labels: npt.NDArray[Any]) -> None:
        if not isinstance(self.labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.ndim != 1:
            kind = labels.dtype if isinstance(self.labels, np.ndarray) else type(self.labels).__name__
            raise BadData(
                f"{self.name}: labels are {kind} of shape {labels.shape}, but should be an integer array of shape "
                f"({len(self.inputs)},), a class index an input; likely cause: one-hot labels, or names"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, size: int) -> Iterator[Float32]:
        for start in range(0, len(self.inputs), size):
            yield np.ascontiguousarray(self.inputs[start : start + size], dtype=np.float32)

    def hashes(self) -> tuple[str, ...]:
        return tuple(hashlib.sha256(row.tobytes()).hexdigest() for batch in self.batches(256) for row in batch)

    @cached_property
    def digest(self) -> str:
        whole = hashlib.sha256(repr(self.inputs.shape).encode())
        for batch in self.batches(256):
            whole.update(batch.tobytes())
        if self.labels is not None:
            whole.update(np.ascontiguousarray(self.labels, dtype=np.int64).tobytes())
        return whole.hexdigest()
