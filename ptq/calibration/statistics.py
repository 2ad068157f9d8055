"""TensorStatistics: what one streaming pass saw of each tensor, whatever the batches and their order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ptq.calibration import histogram
from ptq.calibration.histogram import HALF, Histogram
from ptq.errors import BadData
from ptq.samples import Float32

_CHUNK = 1 << 15  # values worked on at a time
_LANES = 4  # interleaved counters: a run of equal values does not wait for its own last increment
_PIECE = 4096  # values of an image summed at a time
_LARGE = 2.0**80  # pieces whose squares sum up to more, or to less than its inverse, are summed in float64


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Statistics of one tensor over all calibration images.

    Parameters
    ----------
    min, max: smallest and largest value, exact, in the units of the tensor.
    count: number of values.
    total, total_squares: sum of the values and of their squares. Every image is summed by itself and the images are
        added exactly, as fractions: the result does not depend on batches, order or merging.
    histogram: counts of all values, `Histogram`.
    """

    min: float
    max: float
    count: int
    total: Fraction
    total_squares: Fraction
    histogram: Histogram

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return float(self.total / self.count)

    @property
    def rms(self) -> float:
        """Square root of the mean square of the values."""
        return float(np.sqrt(float(self.total_squares / self.count)))

    def __add__(self, other: TensorStatistics) -> TensorStatistics:
        """The statistics of both sets of images."""
        return TensorStatistics(
            min(self.min, other.min),
            max(self.max, other.max),
            self.count + other.count,
            self.total + other.total,
            self.total_squares + other.total_squares,
            self.histogram + other.histogram,
        )


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest value of one tensor, in its units: all that minmax asks of the statistics.

    `lowest` and `highest` are the indices of the first images that hold them; 0 where nobody asked.
    """

    min: float
    max: float
    lowest: int = 0
    highest: int = 0


class _ExactSum:
    """A sum that forgets no bit of its terms, so that their order does not matter."""

    def __init__(self) -> None:
        self._mantissas = np.zeros(512, np.int64)  # by exponent: every float32 is a whole number of 24 bits times 2^e
        self._rest = 0  # in units of 2^-1074, of which every float64 is a whole number

    def add(self, terms: Float32) -> None:
        mantissa, exponent = np.frexp(terms.reshape(-1))
        np.add.at(self._mantissas, exponent.astype(np.intp) + 256, np.ldexp(mantissa, 24).astype(np.int64))

    def add_double(self, term: float) -> None:
        numerator, denominator = term.as_integer_ratio()
        self._rest += numerator << (1075 - denominator.bit_length())

    def total(self) -> Fraction:
        used = np.flatnonzero(self._mantissas).tolist()
        units = sum(int(self._mantissas[each]) << (each - 256 - 24 + 1074) for each in used)
        return Fraction(units + self._rest, 1 << 1074)


class _Accumulator:
    """The statistics of one tensor so far."""

    def __init__(self) -> None:
        self.min, self.max, self.count = np.inf, -np.inf, 0
        self.sum, self.squares = _ExactSum(), _ExactSum()
        self.exponent, self.counts = histogram.FINEST, np.zeros(_LANES * 2 * HALF, np.int64)

    def add(self, look: Look, scratch: _Scratch) -> None:
        """Take in a tensor of one batch, which is finite."""
        values, (low, _, high, _) = look
        self.min, self.max = min(self.min, low), max(self.max, high)
        self.count += values.size
        totals, squares, far = _sums(values)
        self.sum.add(totals)
        self.squares.add(squares)
        for total, square in far:
            self.sum.add_double(total)
            self.squares.add_double(square)
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
        return TensorStatistics(
            self.min, self.max, self.count, self.sum.total(), self.squares.total(), self.histogram()
        )


class _Scratch:
    """Working arrays: small enough to stay in a core's cache, and never allocated twice."""

    def __init__(self) -> None:
        self.whole = np.empty(_CHUNK, np.int32)
        self.index = np.empty(_CHUNK, np.intp)
        self.lanes = np.resize(np.arange(_LANES, dtype=np.int32) * (2 * HALF) + HALF, _CHUNK)


Span = tuple[float, int, float, int]
"""Min of a tensor in one batch, the index in it of the first image that holds it; max, and its image's index."""


Look = tuple[Float32, Span]
"""A tensor in one batch, and its span, which is cheapest to find where the tensor was just made."""


def look(batch: Mapping[str, Float32]) -> tuple[int, dict[str, Look]]:
    """How many images a batch of ``{tensor: float32 array of shape (images, ...)}`` has, and its tensors that are not
    empty."""
    images, spans = span(batch)
    return images, {name: (batch[name], each) for name, each in spans.items()}


def _sums(values: Float32) -> tuple[Float32, Float32, list[tuple[float, float]]]:
    """Sums of pieces of each image and of their squares, shape (images, pieces).

    Pieces that are too large or too small to be squared in float32 are 0 there; their two sums, in float64, follow.
    """
    rows = np.ascontiguousarray(values).reshape(len(values) if values.ndim else 1, -1)
    whole = rows.shape[1] // _PIECE * _PIECE
    parts = [rows[:, :whole].reshape(len(rows), -1, _PIECE), rows[:, None, whole:]]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # far pieces are summed again
        # numpy adds each piece in an order of its own: its sum is the same alone and in company
        totals = [part.sum(axis=2) for part in parts if part.size]
        squares = [np.einsum("ijk,ijk->ij", part, part) for part in parts if part.size]
        far = []
        for part, total, square in zip((part for part in parts if part.size), totals, squares, strict=True):
            for place in zip(*np.nonzero(~((square < _LARGE) & (square > 1 / _LARGE))), strict=True):
                if part[place].any():
                    double = part[place].astype(np.float64)
                    far.append((float(double.sum()), float(np.square(double).sum())))
                total[place] = square[place] = 0
    return np.concatenate(totals, axis=1), np.concatenate(squares, axis=1), far


def collect(
    batches: Iterable[Mapping[str, Float32]], progress: Callable[[int], None] = lambda images: None
) -> dict[str, TensorStatistics]:
    """Statistics by tensor name over batches of ``{tensor: float32 array of shape (images, ...)}``.

    One pass, constant memory. The result is the same to the last bit however the images are split into batches and in
    whatever order they come. `progress` is called with the number of images seen so far.

    Raises `BadData` for a value that is not finite, naming the tensor and the index of the image.
    """
    return count(map(look, batches), progress)


def count(
    looks: Iterable[tuple[int, Mapping[str, Look]]], progress: Callable[[int], None] = lambda images: None
) -> dict[str, TensorStatistics]:
    """What `collect` does, from what `look` says of each batch.

    On one thread: numpy counts under the interpreter's lock, so the other cores are left to what makes the batches.
    """
    seen: dict[str, _Accumulator] = {}
    scratch = _Scratch()
    images = 0
    for n, batch in looks:
        for name in batch:
            _check_finite(name, batch[name][1], images)
            seen.setdefault(name, _Accumulator()).add(batch[name], scratch)
        images += n
        progress(images)
        del batch  # before the next one is made
    return {name: each.finish() for name, each in sorted(seen.items())}


def span(batch: Mapping[str, Float32]) -> tuple[int, dict[str, Span]]:
    """How many images a batch has, and the span of each of its tensors; a NaN is both min and max."""
    spans = {}
    for name, each in batch.items():
        if each.size:
            flat, size = each.reshape(-1), each.size // (len(each) if each.ndim else 1)
            lowest, highest = int(flat.argmin()), int(flat.argmax())
            spans[name] = float(flat[lowest]), lowest // size, float(flat[highest]), highest // size
    return _images(batch), spans


def merge(batches: Iterable[tuple[int, Mapping[str, Span]]]) -> dict[str, Extremes]:
    """The extremes over batches that follow one another, by what `span` says of each. Raises `BadData` as `collect`."""
    seen: dict[str, Span] = {}
    images = 0
    for n, spans in batches:
        for name, each in spans.items():
            _check_finite(name, each, images)
            low, lowest, high, highest = each
            known = seen.get(name)
            if known is None:
                seen[name] = low, images + lowest, high, images + highest
            elif low < known[0] or high > known[2]:
                below = (low, images + lowest) if low < known[0] else known[:2]
                seen[name] = *below, *((high, images + highest) if high > known[2] else known[2:])
        images += n
    return {name: Extremes(low, high, lowest, highest) for name, (low, lowest, high, highest) in sorted(seen.items())}


def _images(batch: Mapping[str, Float32]) -> int:
    return max((len(each) for each in batch.values() if each.ndim), default=0)


def _check_finite(name: str, seen: Span, first: int) -> None:
    low, lowest, high, highest = seen
    if math.isfinite(low) and math.isfinite(high):
        return
    bad, image = (high, highest) if math.isfinite(low) else (low, lowest)
    raise BadData(
        f"tensor {name!r}: {'NaN' if math.isnan(bad) else 'infinite'} on calibration image {first + image}, but should "
        "be finite; likely cause: an input outside the model's value range, or a broken float model"
    )
