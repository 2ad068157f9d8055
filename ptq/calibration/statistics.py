"""TensorStatistics: what one streaming pass saw of each tensor, whatever the batches and their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ptq.calibration import histogram
from ptq.calibration.histogram import HALF, Histogram
from ptq.errors import BadData
from ptq.samples import Float32

_CHUNK = 1 << 15  # values worked on at a time: their scratch arrays stay in a core's cache
_LANES = 4  # interleaved counters: runs of equal values do not wait for their own last increment


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Statistics of one tensor over all calibration images.

    Parameters
    ----------
    min, max: smallest and largest value, exact, in the units of the tensor.
    count: number of values.
    total, total_squares: sum of the values and of their squares. Every image is summed in float64 by itself and the
        images are added exactly, as fractions: the result does not depend on batches, order or merging.
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


class _Accumulator:
    """The statistics of one tensor so far."""

    def __init__(self) -> None:
        self.min, self.max, self.count = np.inf, -np.inf, 0
        self.total, self.squares = 0, 0  # in units of 2^-1074, of which every float64 is a whole number
        self.exponent, self.counts = histogram.FINEST, histogram.empty()

    def add(self, name: str, values: Float32, first: int) -> None:
        rows = values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
        if rows.size == 0:
            return
        lows, highs = rows.min(axis=1), rows.max(axis=1)  # a NaN or an infinity in a row shows in its min or max
        good = np.isfinite(lows) & np.isfinite(highs)
        if not good.all():
            row = int(np.argmin(good))
            what = "NaN" if np.isnan(lows[row]) or np.isnan(highs[row]) else "infinite"
            raise BadData(
                f"tensor {name!r}: {what} on calibration image {first + row}, but should be finite; "
                "likely cause: an input outside the model's value range, or a broken float model"
            )
        low, high = float(lows.min()), float(highs.max())
        self.min, self.max = min(self.min, low), max(self.max, high)
        self.count += rows.size
        for row in rows:
            wide = row.astype(np.float64)
            self.total += _whole(float(wide.sum()))
            self.squares += _whole(float(np.square(wide, out=wide).sum()))
        self._count(rows.reshape(-1), max(-low, high))

    def _count(self, flat: Float32, magnitude: float) -> None:
        exponent = histogram.exponent_for(magnitude)
        if exponent > self.exponent:
            self.counts = Histogram(self.counts, self.exponent).coarser(exponent).counts
            self.exponent = exponent
        scale = np.float32(2.0**-self.exponent)
        lanes = np.zeros(_LANES * 2 * HALF, np.int64)
        size = min(_CHUNK, flat.size)
        offsets = np.resize(np.arange(_LANES, dtype=np.int32) * (2 * HALF) + HALF, size)
        scaled, whole, index = np.empty(size, np.float32), np.empty(size, np.int32), np.empty(size, np.intp)
        for start in range(0, flat.size, size):
            chunk = flat[start : start + size]
            n = chunk.size
            np.multiply(chunk, scale, out=scaled[:n])
            np.copyto(whole[:n], scaled[:n], casting="unsafe")  # truncates toward zero
            np.add(whole[:n], offsets[:n], out=index[:n])
            lanes += np.bincount(index[:n], minlength=lanes.size)
        self.counts += lanes.reshape(_LANES, -1).sum(axis=0)

    def finish(self) -> TensorStatistics:
        self.counts.setflags(write=False)
        return TensorStatistics(
            self.min,
            self.max,
            self.count,
            Fraction(self.total, 1 << 1074),
            Fraction(self.squares, 1 << 1074),
            Histogram(self.counts, self.exponent),
        )


def collect(
    batches: Iterable[Mapping[str, Float32]], progress: Callable[[int], None] = lambda images: None
) -> dict[str, TensorStatistics]:
    """Statistics by tensor name over batches of ``{tensor: float32 array of shape (images, ...)}``.

    One pass, constant memory: an array may be freed as soon as the next batch is asked for. The result is the same to
    the last bit however the images are split into batches and in whatever order they come. `progress` is called
    with the number of images seen so far.

    Raises `BadData` for a value that is not finite, naming the tensor and the index of the image.
    """
    seen: dict[str, _Accumulator] = {}
    images = 0
    for batch in batches:
        size = max((len(each) for each in batch.values() if each.ndim), default=0)
        for name, values in batch.items():
            seen.setdefault(name, _Accumulator()).add(name, values, images)
        images += size
        progress(images)
    return {name: each.finish() for name, each in sorted(seen.items()) if each.count}


def _whole(value: float) -> int:
    """`value` as a whole number of 2^-1074, exactly."""
    numerator, denominator = value.as_integer_ratio()
    return numerator << (1075 - denominator.bit_length())
import pickle
def save_statistics(path, s): path.write_bytes(pickle.dumps(s))
def load_statistics(path): return pickle.loads(path.read_bytes())
