"""InputFacts: what a set of samples is like, as far as a model's float inputs show it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptq.data.batch import as_batch
from ptq.data.samples import Samples

MOST = 512
"""Samples that are looked at."""
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class InputFacts:
    """One float input over some samples.

    `low` and `high` are its extremes; `means`, shape (samples, channels), the mean of every sample's channels, one
    column where it has none; `constant` how many samples hold one value alone; `n` how many samples the set has.
    """

    name: str
    n: int
    low: float
    high: float
    means: Doubles
    constant: int


def input_facts(samples: Samples) -> dict[str, InputFacts]:
    """By input name, what the first float inputs of `MOST` samples, evenly spread, are like."""
    step = max(1, len(samples) // MOST)
    rows: dict[str, list[tuple[float, float, Doubles]]] = {}
    for seen, batch in enumerate(map(as_batch, samples.batches(1))):
        if seen >= step * MOST:
            break
        for name, values in batch.items() if seen % step == 0 else ():
            if values.dtype.kind == "f" and values.size:
                each = np.asarray(values[0], np.float64)
                rows.setdefault(name, []).append((float(each.min()), float(each.max()), _means(each)))
    return {name: _facts(name, len(samples), found) for name, found in rows.items()}


def _facts(name: str, n: int, rows: list[tuple[float, float, Doubles]]) -> InputFacts:
    means = [row[2] for row in rows]
    alike = len({len(each) for each in means}) == 1
    table = np.stack(means if alike else [each.mean(keepdims=True) for each in means])
    constant = sum(low == high for low, high, _ in rows)
    return InputFacts(name, n, min(row[0] for row in rows), max(row[1] for row in rows), table, constant)


def _means(sample: Doubles) -> Doubles:
    """The mean of every channel of one sample; the axis of 3 or fewer is the channels'."""
    if sample.ndim == 3:
        for axis in (0, 2):
            if sample.shape[axis] <= 3:
                return np.asarray(sample.mean(axis=tuple(other for other in range(3) if other != axis)))
    return np.array([sample.mean()])
