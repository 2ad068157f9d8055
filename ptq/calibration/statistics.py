"""TensorStatistics: what one streaming pass saw of each tensor, whatever the batches and their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ptq.calibration import histogram
from ptq.calibration.histogram import HALF, Histogram
from ptq.errors import BadData
from ptq.samples import Float32

_CHUNK = 1 << 15  # values worked on at a time
_LANES = 4  # interleaved counters: a run of equal values does not wait for its own last increment
_LARGE = 2.0**40  # images with values beyond this, or all below its inverse, are summed in float64
_SMALL = 64 * 1024 * 1024  # bytes of a batch that may wait for its turn


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
    """Smallest and largest value of one tensor, in its units: all that minmax asks of the statistics."""

    min: float
    max: float


class _Scratch:
    """Working arrays of one thread: small enough to stay in a core's cache, and never allocated twice."""

    def __init__(self) -> None:
        self.real = np.empty(_CHUNK, np.float32)
        self.whole = np.empty(_CHUNK, np.int32)
        self.index = np.empty(_CHUNK, np.intp)
        self.lanes = np.resize(np.arange(_LANES, dtype=np.int32) * (2 * HALF) + HALF, _CHUNK)


class _Accumulator:
    """The statistics of one tensor so far."""

    def __init__(self) -> None:
        self.min, self.max, self.count = np.inf, -np.inf, 0
        self.total, self.squares = 0, 0  # in units of 2^-1074, of which every float64 is a whole number
        self.exponent, self.counts = histogram.FINEST, np.zeros(_LANES * 2 * HALF, np.int64)

    def add(self, name: str, values: Float32, first: int, scratch: _Scratch) -> None:
        """Count `values`, shape (images, ...); `first` is the index of the first image."""
        rows = _rows(values)
        if rows.size == 0:
            return
        lows, highs = _bounds(name, rows, first)
        low, high = float(lows.min()), float(highs.max())
        self.min, self.max = min(self.min, low), max(self.max, high)
        self.count += rows.size
        self._widen(max(-low, high))
        magnitudes = np.maximum(-lows, highs)
        wide = (magnitudes > _LARGE) | ((magnitudes < 1 / _LARGE) & (magnitudes > 0))
        scale = np.float32(2.0**-self.exponent)
        together = max(1, _CHUNK // rows.shape[1])  # whole images at a time, or one image in pieces
        for start in range(0, len(rows), together):
            images = rows[start : start + together]
            for left in range(0, images.shape[1], _CHUNK):
                self._count(images[:, left : left + _CHUNK].reshape(-1), scale, scratch)
                self._sum(images[:, left : left + _CHUNK], wide[start : start + together], scratch)

    def _count(self, chunk: Float32, scale: np.float32, scratch: _Scratch) -> None:
        n = chunk.size
        np.multiply(chunk, scale, out=scratch.whole[:n], casting="unsafe")  # truncates toward zero
        np.add(scratch.whole[:n], scratch.lanes[:n], out=scratch.index[:n])
        np.add.at(self.counts, scratch.index[:n], 1)

    def _sum(self, pieces: Float32, wide: npt.NDArray[np.bool_], scratch: _Scratch) -> None:
        # numpy adds each row pairwise: the sum of an image's piece is the same alone and in company
        squares = scratch.real[: pieces.size].reshape(pieces.shape)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # far rows are summed again below
            np.square(pieces, out=squares)
            totals, total_squares = pieces.sum(axis=1), squares.sum(axis=1)
        for total, square, row, far in zip(totals.tolist(), total_squares.tolist(), pieces, wide.tolist(), strict=True):
            if far:
                double = row.astype(np.float64)
                total, square = float(double.sum()), float(np.square(double).sum())
            self.total += _whole(total)
            self.squares += _whole(square)

    def _widen(self, magnitude: float) -> None:
        exponent = histogram.exponent_for(magnitude)
        if exponent > self.exponent:
            self.counts[: 2 * HALF] = self.histogram().coarser(exponent).counts
            self.counts[2 * HALF :] = 0
            self.exponent = exponent

    def histogram(self) -> Histogram:
        counts = self.counts.reshape(_LANES, 2 * HALF).sum(axis=0)
        counts.setflags(write=False)
        return Histogram(counts, self.exponent)

    def finish(self) -> TensorStatistics:
        total, squares = (Fraction(each, 1 << 1074) for each in (self.total, self.squares))
        return TensorStatistics(self.min, self.max, self.count, total, squares, self.histogram())


def collect(
    batches: Iterable[Mapping[str, Float32]], progress: Callable[[int], None] = lambda images: None, threads: int = 2
) -> dict[str, TensorStatistics]:
    """Statistics by tensor name over batches of ``{tensor: float32 array of shape (images, ...)}``.

    One pass, constant memory: at most two batches are alive, one being made while the other is counted, and one when
    they are large. The result is the same to the last bit however the images are split into batches, in whatever order
    they come and for any number of `threads`. `progress` is called with the number of images seen so far.

    Raises `BadData` for a value that is not finite, naming the tensor and the index of the image.
    """
    seen: dict[str, _Accumulator] = {}
    scratches = [_Scratch() for _ in range(threads)]
    images = 0

    source = iter(batches)
    batch = next(source, None)

    def work(worker: int) -> None:
        # reads `batch` where it stands: an argument would live on in the pool and keep a large batch alive
        assert batch is not None
        sizes = {name: each.size for name, each in batch.items()}
        for name in sorted(sizes, key=lambda name: (-sizes[name], name))[worker::threads]:
            seen[name].add(name, batch[name], images, scratches[worker])

    with ThreadPoolExecutor(threads + 1) as pool:
        while batch is not None:
            for name in batch:
                seen.setdefault(name, _Accumulator())
            small = sum(each.nbytes for each in batch.values()) <= _SMALL
            upcoming = pool.submit(next, source, None) if small else None
            for done in [pool.submit(work, worker) for worker in range(threads)]:
                done.result()
            images += max((len(each) for each in batch.values() if each.ndim), default=0)
            progress(images)
            batch = None
            batch = upcoming.result() if upcoming is not None else next(source, None)
    return {name: each.finish() for name, each in sorted(seen.items()) if each.count}


def extremes(batches: Iterable[Mapping[str, Float32]]) -> dict[str, Extremes]:
    """The min and max that `collect` would find, by tensor name, for a fraction of its cost. Raises `BadData` as it."""
    seen: dict[str, Extremes] = {}
    images = 0
    for batch in batches:
        for name, rows in ((name, _rows(each)) for name, each in batch.items() if each.size):
            lows, highs = _bounds(name, rows, images)
            known = seen.get(name, Extremes(np.inf, -np.inf))
            seen[name] = Extremes(min(known.min, float(lows.min())), max(known.max, float(highs.max())))
            del rows
        images += max((len(each) for each in batch.values() if each.ndim), default=0)
        del batch  # before the next one is made: its memory is then used again, not asked for anew
    return dict(sorted(seen.items()))


def _rows(values: Float32) -> Float32:
    """One row an image."""
    return np.ascontiguousarray(values).reshape(len(values) if values.ndim else 1, -1)


def _bounds(name: str, rows: Float32, first: int) -> tuple[Float32, Float32]:
    """Min and max of every row; `first` is the index of the first image."""
    lows, highs = rows.min(axis=1), rows.max(axis=1)  # a NaN or an infinity in a row shows in its min or max
    good = np.isfinite(lows) & np.isfinite(highs)
    if not good.all():
        row = int(np.argmin(good))
        what = "infinite" if np.isinf(rows[row]).any() else "NaN"
        raise BadData(
            f"tensor {name!r}: {what} on calibration image {first + row}, but should be finite; "
            "likely cause: an input outside the model's value range, or a broken float model"
        )
    return lows, highs


def _whole(value: float) -> int:
    """`value` as a whole number of 2^-1074, exactly."""
    numerator, denominator = value.as_integer_ratio()
    return numerator << (1075 - denominator.bit_length())
