"""InputContract: what a model's input must be, and the likely cause when it is not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ptq.errors import BadData


class ContractBroken(BadData):
    """A batch breaks an input contract; the message names the index, the value and the likely cause."""


@dataclass(frozen=True)
class InputContract:
    """Shape, dtype, layout and value range of a model's input batch.

    Parameters
    ----------
    shape: of a batch; None for a dimension that varies, e.g. ``(None, 32, 32, 3)``.
    layout: ``NHWC``, ``NCHW``, or another string with one letter a dimension; empty when it is not known.
    low, high: the closed range values lie in, e.g. 0..255 or 0..1; None where nobody says.
    used: the largest value over a whole data set is above this share of `high`: 0.5 by default, so that 0..1 data
        under a 0..255 contract fails.
    channel_mean: per-channel mean over a data set, in the units of the input, or None; tells RGB from BGR.
    dtype: numpy's name of the element type.
    constant: a number that fills this input for every sample, a sample rate or the zeros a recurrent state starts from:
        the samples then have no such input, and artifacts take none.
    batch_axis: the dimension of `shape` that counts samples, where the model has another than its first. Samples come
        with theirs first all the same, and artifacts take them so.

    Raises `BadData` when these cannot be met together.
    """

    shape: tuple[int | None, ...]
    layout: str = ""
    low: float | None = None
    high: float | None = None
    used: float = 0.5
    channel_mean: tuple[float, ...] | None = None
    dtype: str = "float32"
    constant: float | None = None
    batch_axis: int = 0

    def __post_init__(self) -> None:
        if self.layout and len(self.layout) != len(self.shape):
            raise BadData(
                f"contract.layout={self.layout!r}, but should have {len(self.shape)} letters, one a dimension of "
                f"shape={self.shape}"
            )
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise BadData(f"contract.low={self.low:g}, but should be below contract.high={self.high:g}")
        try:
            np.dtype(self.dtype)
        except TypeError as error:
            raise BadData(
                f"contract.dtype={self.dtype!r}, but should be numpy's name of a type, e.g. float32"
            ) from error
        if not 0 <= self.batch_axis < max(1, len(self.shape)):
            raise BadData(
                f"contract.batch_axis={self.batch_axis}, but should be a dimension of shape={self.shape}, from 0"
            )

    @property
    def bound(self) -> InputContract:
        """The contract of this input with its samples first."""
        order = [self.batch_axis, *(each for each in range(len(self.shape)) if each != self.batch_axis)]
        shape = tuple(self.shape[each] for each in order) if self.shape else ()
        return replace(self, shape=shape, layout="".join(self.layout[each : each + 1] for each in order), batch_axis=0)

    def check(self, batch: npt.NDArray[np.generic]) -> None:
        """Raise `ContractBroken` unless the batch has the contract's dtype, shape and values inside its range."""
        if batch.dtype != np.dtype(self.dtype):
            raise ContractBroken(
                f"batch.dtype={batch.dtype}, but should be {self.dtype}: cast once, where images are read"
            )
        if len(batch.shape) != len(self.shape) or any(
            want is not None and want != have for have, want in zip(batch.shape, self.shape, strict=True)
        ):
            raise ContractBroken(
                f"batch.shape={batch.shape}, but should be {self._shape()}{self._shape_cause(batch.shape)}"
            )
        if batch.size == 0:
            raise ContractBroken(f"batch.shape={batch.shape} holds nothing, but should hold at least one sample")
        values = np.asarray(batch.reshape(len(batch), -1), dtype=self.dtype)
        low, high = self._bounds()
        good = (values >= low) & (values <= high)
        if not good.all():
            sample, position = np.argwhere(~good)[0]
            where = tuple(int(each) for each in np.unravel_index(position, batch.shape[1:]))
            raise ContractBroken(
                f"batch[{sample}]{list(where)}={values[sample, position]!s}, but should be in "
                f"[{low:g}, {high:g}]{self._value_cause(values)}"
            )

    def check_whole(self, lowest: float, highest: float, mean: npt.NDArray[np.float64]) -> None:
        """Raise `ContractBroken` unless a whole data set uses the range and has the contract's channel order.

        `lowest`, `highest` and the per-channel `mean`, shape (C,), are taken over the data set.
        """
        if self.low is not None and self.high is not None:
            least = self.low + self.used * (self.high - self.low)
            if highest <= least:
                slip = "; likely cause: divided by 255" if self.high > 1 >= highest else ""
                raise ContractBroken(
                    f"max={highest:g} over all samples, but should be above {least:g}"
                    f" for a range of [{self.low:g}, {self.high:g}]{slip}"
                )
        if self.channel_mean is None:
            return
        want = np.asarray(self.channel_mean)
        straight, reverse = np.abs(mean - want).max(), np.abs(mean[::-1] - want).max()
        if reverse < straight:
            raise ContractBroken(
                f"channel means {_list(mean)} are nearer to {_list(want)} when reversed; "
                "likely cause: BGR where RGB should be, or RGB where BGR should be (swapped channels)"
            )

    @property
    def channels(self) -> int | None:
        """Which axis of a batch holds channels; None when the layout has none."""
        axis = self.layout.find("C")
        return None if axis < 0 else axis

    def _bounds(self) -> tuple[float, float]:
        """The range of values that pass; NaN never does, infinity does where nobody says."""
        return -np.inf if self.low is None else self.low, np.inf if self.high is None else self.high

    def _shape(self) -> str:
        dims = ", ".join("N" if each is None else str(each) for each in self.shape)
        return f"({dims}) {self.layout}".rstrip()

    def _shape_cause(self, have: tuple[int, ...]) -> str:
        swaps = {"NHWC": (0, 2, 3, 1), "NCHW": (0, 3, 1, 2)}
        if self.layout in swaps and len(have) == 4:
            moved = tuple(have[axis] for axis in swaps[self.layout])
            if all(want is None or want == each for each, want in zip(moved, self.shape, strict=True)):
                other = "NCHW" if self.layout == "NHWC" else "NHWC"
                return f"; likely cause: {other} where {self.layout} should be"
        if len(have) == len(self.shape) - 1:
            return "; likely cause: one sample without a batch dimension"
        return ""

    def _value_cause(self, values: npt.NDArray[np.generic]) -> str:
        numbers = values.astype(np.float64)
        if not np.isfinite(numbers).all():
            return "; likely cause: a division by zero or an uninitialised array"
        if self.high is not None and self.high <= 1 < numbers.max():
            return "; likely cause: not divided by 255"
        if self.low is not None and numbers.min() < 0 <= self.low:
            return "; likely cause: normalised to zero mean"
        return ""


def _list(values: npt.NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{each:.4g}" for each in values) + "]"
