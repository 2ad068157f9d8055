"""Parity: how near a converted model is to the one it was made from, on random inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ptq.data.batch import Array
from ptq.data.signature import Signature
from ptq.errors import BadModel, one_line

TOLERANCE = 1e-4
VARYING = 32  # the size of a dimension that varies, beside the batch
LARGEST = 1 << 30
"""Bytes of one input of a call that ptq makes up or repeats."""


@dataclass(frozen=True)
class Parity:
    """What a conversion changed, over `n` random inputs in [`low`, `high`].

    Of the output that changed most for its size: `max_abs` is the largest absolute difference, `largest` the largest
    absolute value the original gave, `agreement` the share of inputs with the same largest value, 0..1.
    """

    max_abs: float
    largest: float
    agreement: float
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, have: Sequence[Array], want: Sequence[Array], low: float, high: float) -> Parity:
        """Between the outputs of a conversion and those of its original, arrays of shape (n, ...) in one order.

        Outputs of other number or shape are as far apart as can be.
        """
        if [each.shape for each in have] != [each.shape for each in want]:
            return cls(float("inf"), 0.0, 0.0, len(want[0]), low, high)
        found = []
        for mine, theirs in zip(have, want, strict=True):
            apart = np.abs(mine.astype(np.float64) - theirs.astype(np.float64))
            flat = mine.reshape(len(mine), -1).argmax(axis=1) == theirs.reshape(len(theirs), -1).argmax(axis=1)
            numbers = float(apart.max()), float(np.abs(theirs).max()), float(flat.mean())
            found.append(cls(*numbers, len(theirs), low, high))
        return max(found, key=lambda each: (not each.passes, each.max_abs / (each.largest or 1)))

    @property
    def passes(self) -> bool:
        """Whether `max_abs` is at most `TOLERANCE` of `largest`; what is not a number never passes."""
        return self.max_abs <= TOLERANCE * self.largest

    def check(self, name: str, ours: str, theirs: str) -> None:
        """Raise `BadModel` unless it passes; `ours` and `theirs` are the forms, e.g. ``ONNX`` and ``Keras``."""
        if not self.passes:
            raise BadModel(
                f"{name}: {ours} and {theirs} differ by {self.max_abs:.3g} on {self.n} inputs, but should differ by at "
                f"most {TOLERANCE * self.largest:.3g}; likely cause: an operation that is converted wrongly"
            )

    def __str__(self) -> str:
        return (
            f"max difference {self.max_abs:.3g} of {self.largest:.3g}, same top-1 on {self.agreement:.1%} "
            f"of {self.n} random inputs in [{self.low:g}, {self.high:g}]"
        )


def check_size(signature: Signature, count: int) -> None:
    """Raise `BadModel` when `count` samples take more than `LARGEST` bytes: a few bytes of a file claim terabytes."""
    for tensor in signature.inputs:
        sides = [VARYING if size is None else size for size in tensor.shape[1:]]
        size = math.prod([count, *sides]) * np.dtype(tensor.dtype).itemsize
        if size > LARGEST:
            raise BadModel(
                f"input {one_line(str(tensor))}: {count:,} samples take {size:,} bytes, but should take at most "
                f"{LARGEST:,} a call"
            )


def random_inputs(
    signature: Signature, low: float = 0, high: float = 255, n: int = 16, seed: int = 0
) -> dict[str, Array]:
    """`n` random samples of a model's inputs by name, or as many as the model takes at a time.

    Floats are uniform in [`low`, `high`]. Integers are 0 or 1: any table of embeddings has these rows, and a mask is
    nothing else. A dimension that varies has size `VARYING`.
    """
    generator = np.random.default_rng(seed)
    count = signature.batch or n
    check_size(signature, count)
    found = {}
    for tensor in signature.inputs:
        shape = [VARYING if size is None else size for size in tensor.shape]
        shape[:1] = [count] * min(1, len(shape))
        real = np.dtype(tensor.dtype).kind == "f"
        values = generator.uniform(low, high, shape) if real else generator.integers(0, 2, shape)
        found[tensor.name] = np.asarray(values, dtype=tensor.dtype)
    return found
