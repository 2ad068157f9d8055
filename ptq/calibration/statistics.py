"""TensorStatistics: what one streaming pass saw of each tensor, whatever the batches and their order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ptq.calibration import histogram
from ptq.calibration.histogram import HALF, Histogram
from ptq.data.samples import Float32, Order
from ptq.errors import BadData

_CHUNK = 1 << 15  # values worked on at a time
_LANES = 4  # interleaved counters: a run of equal values does not wait for its own last increment


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Statistics of one tensor over all calibration samples.

    Parameters
    ----------
    min, max: smallest and largest value, exact, in the units of the tensor.
    count: number of values.
    histogram: counts of all values, `Histogram`.
    """

    min: float
    max: float
    count: int
    histogram: Histogram

    def __add__(self, other: TensorStatistics) -> TensorStatistics:
        """The statistics of both sets of samples."""
        return TensorStatistics(
            min(self.min, other.min),
            max(self.max, other.max),
            self.count + other.count,
            self.histogram + other.histogram,
        )


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest value of one tensor, in its units: all that minmax asks of the statistics.

    `lowest` and `highest` are the places of the first samples that hold them, as they came; 0 where nobody asked.
    """

    min: float
    max: float
    lowest: int = 0
    highest: int = 0


class _Accumulator:
    """The statistics of one tensor so far."""

    def __init__(self) -> None:
        self.min, self.max, self.count = np.inf, -np.inf, 0
        self.exponent, self.counts = histogram.FINEST, np.zeros(_LANES * 2 * HALF, np.int64)

    def add(self, look: Look, scratch: _Scratch) -> None:
        """Take in a tensor of one batch, which is finite."""
        values, (low, _, high, _) = look
        self.min, self.max = min(self.min, low), max(self.max, high)
        self.count += values.size
        exponent = histogram.exponent_for(max(-low, high))
        if exponent > self.exponent:
            self.counts[: 2 * HALF] = self.histogram().coarser(exponent).counts
            self.counts[2 * HALF :] = 0
            self.exponent = exponent
        scale, flat = np.float32(2.0**-self.exponent), values.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            n = chunk.size
            np.multiply(chunk, scale, out=scratch.whole[:n], casting="unsafe")  # truncates toward zero
            np.add(scratch.whole[:n], scratch.lanes[:n], out=scratch.index[:n])
            np.add.at(self.counts, scratch.index[:n], 1)

    def histogram(self) -> Histogram:
        counts = self.counts.reshape(_LANES, 2 * HALF).sum(axis=0)
        counts.setflags(write=False)
        return Histogram(counts, self.exponent)

    def finish(self) -> TensorStatistics:
        return TensorStatistics(self.min, self.max, self.count, self.histogram())


def added(parts: Iterable[Mapping[str, TensorStatistics]]) -> dict[str, TensorStatistics]:
    """The statistics by tensor name of all parts, each of other samples: equal to those of one pass, to the bit."""
    seen: dict[str, TensorStatistics] = {}
    for part in parts:
        for name, each in part.items():
            seen[name] = seen[name] + each if name in seen else each
    return dict(sorted(seen.items()))


class _Scratch:
    """Working arrays: small enough to stay in a core's cache, and never allocated twice."""

    def __init__(self) -> None:
        self.whole = np.empty(_CHUNK, np.int32)
        self.index = np.empty(_CHUNK, np.intp)
        self.lanes = np.resize(np.arange(_LANES, dtype=np.int32) * (2 * HALF) + HALF, _CHUNK)


Span = tuple[float, int, float, int]
"""Min of a tensor in one batch, the index in it of the first sample that holds it; max, and its sample's index."""


Look = tuple[Float32, Span]
"""A tensor in one batch, and its span, which is cheapest to find where the tensor was just made."""


def look(batch: Mapping[str, Float32]) -> tuple[int, dict[str, Look]]:
    """How many samples a batch of ``{tensor: float32 array of shape (samples, ...)}`` has, and its tensors that are not
    empty."""
    samples, spans = span(batch)
    return samples, {name: (batch[name], each) for name, each in spans.items()}


def collect(batches: Iterable[Mapping[str, Float32]], order: Order | None = None) -> dict[str, TensorStatistics]:
    """Statistics by tensor name over batches of ``{tensor: float32 array of shape (samples, ...)}``.

    One pass, constant memory. The result is the same to the last bit however the samples are split into batches and in
    whatever order they come; `order` is that of `Samples`.

    Raises `BadData` for a value that is not finite, naming the tensor and the index of the sample.
    """
    return count(map(look, batches), order)


def count(looks: Iterable[tuple[int, Mapping[str, Look]]], order: Order | None = None) -> dict[str, TensorStatistics]:
    """What `collect` does, from what `look` says of each batch.

    On one thread: numpy counts under the interpreter's lock, so the other cores are left to what makes the batches.
    """
    seen: dict[str, _Accumulator] = {}
    scratch = _Scratch()
    samples = 0
    for n, batch in looks:
        for name in batch:
            _check_finite(name, batch[name][1], samples, order)
            seen.setdefault(name, _Accumulator()).add(batch[name], scratch)
        samples += n
        del batch  # before the next one is made
    return {name: each.finish() for name, each in sorted(seen.items())}


def span(batch: Mapping[str, Float32]) -> tuple[int, dict[str, Span]]:
    """How many samples a batch has, and the span of each of its tensors; a NaN is both min and max."""
    spans = {}
    for name, each in batch.items():
        if each.size:
            flat, size = each.reshape(-1), each.size // (len(each) if each.ndim else 1)
            lowest, highest = int(flat.argmin()), int(flat.argmax())
            spans[name] = float(flat[lowest]), lowest // size, float(flat[highest]), highest // size
    return max((len(each) for each in batch.values() if each.ndim), default=0), spans


def merge(batches: Iterable[tuple[int, Mapping[str, Span]]], order: Order | None = None) -> dict[str, Extremes]:
    """The extremes over batches that follow one another, by what `span` says of each. Raises `BadData` as `collect`."""
    seen: dict[str, Span] = {}
    samples = 0
    for n, spans in batches:
        for name, each in spans.items():
            _check_finite(name, each, samples, order)
            low, lowest, high, highest = each
            known = seen.get(name)
            if known is None:
                seen[name] = low, samples + lowest, high, samples + highest
            elif low < known[0] or high > known[2]:
                below = (low, samples + lowest) if low < known[0] else known[:2]
                seen[name] = *below, *((high, samples + highest) if high > known[2] else known[2:])
        samples += n
    return {name: Extremes(low, high, lowest, highest) for name, (low, lowest, high, highest) in sorted(seen.items())}


def outermost(parts: Iterable[Mapping[str, Extremes]]) -> dict[str, Extremes]:
    """The extremes over parts of the samples that follow one another, places being those in the whole."""
    seen: dict[str, Extremes] = {}
    for part in parts:
        for name, each in part.items():
            low, high = (seen.get(name, each),) * 2
            low, high = each if each.min < low.min else low, each if each.max > high.max else high
            seen[name] = Extremes(low.min, high.max, low.lowest, high.highest)
    return dict(sorted(seen.items()))


def _check_finite(name: str, seen: Span, first: int, order: Order | None) -> None:
    low, lowest, high, highest = seen
    if math.isfinite(low) and math.isfinite(high):
        return
    bad, place = (high, highest) if math.isfinite(low) else (low, lowest)
    index = first + place if order is None else order[first + place]
    raise BadData(
        f"tensor {name!r}: {'NaN' if math.isnan(bad) else 'infinite'} on calibration sample {index}, but should be "
        "finite; likely cause: an input outside the model's value range, or a broken float model"
    )
