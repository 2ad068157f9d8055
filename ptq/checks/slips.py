"""Slips: the usual ways an input is misread on its way into a model, each with what undoes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ptq.data.contract import InputContract
from ptq.data.samples import Float32

_COLOURS = (1, 3, 4)


@dataclass(frozen=True)
class Reading:
    """One slip. `undo` maps a misread batch to what it should have been, same shape, or None where it cannot be.

    `images`: it can only befall an image, of rank 4 and known layout. The contract given to `undo` has both bounds.
    """

    cause: str
    undo: Callable[[Float32, InputContract], Float32 | None]
    images: bool = False


def _channels(batch: Float32, contract: InputContract) -> Float32 | None:
    axis = contract.channels
    return None if axis is None or batch.shape[axis] != 3 else np.flip(batch, axis)


def _divided(batch: Float32, contract: InputContract) -> Float32 | None:
    """Not where anything is negative: -1..1 spreads as far apart when multiplied, and is another slip."""
    return None if batch.min() < 0 else batch * np.float32(255)


def _inverted(batch: Float32, contract: InputContract) -> Float32 | None:
    return None if contract.low is None or contract.high is None else contract.low + contract.high - batch


def _axes(batch: Float32, contract: InputContract) -> Float32 | None:
    height, width = contract.layout.find("H"), contract.layout.find("W")
    if height < 0 or width < 0 or batch.shape[height] != batch.shape[width]:
        return None
    return batch.swapaxes(height, width)


def _planes(batch: Float32, contract: InputContract) -> Float32 | None:
    if contract.layout == "NHWC":
        n, height, width, channels = batch.shape
        return batch.reshape(n, channels, height, width).transpose(0, 2, 3, 1)
    if contract.layout == "NCHW":
        n, channels, height, width = batch.shape
        return batch.reshape(n, height, width, channels).transpose(0, 3, 1, 2)
    return None


READINGS = (
    Reading("BGR where RGB should be, or RGB where BGR should be (swapped channels)", _channels, images=True),
    Reading("divided by 255", _divided),
    Reading("not divided by 255", lambda batch, _: batch / np.float32(255)),
    Reading("scaled to -1..1", lambda batch, _: (batch + 1) * np.float32(127.5)),
    Reading("not scaled to -1..1", lambda batch, _: batch / np.float32(127.5) - 1),
    Reading("inverted (dark on light where light on dark should be)", _inverted, images=True),
    Reading("height and width swapped", _axes, images=True),
    Reading(
        "colour planes reshaped to pixels where they should be transposed (NCHW where NHWC should be)",
        _planes,
        images=True,
    ),
)
"""Every slip that is looked for, the commonest first."""


def readings(shape: tuple[int, ...], contract: InputContract) -> tuple[Reading, ...]:
    """The slips that can befall a float input of `shape`."""
    image = len(shape) == 4 and len(contract.layout) == 4
    return READINGS if image else tuple(reading for reading in READINGS if not reading.images)


def completed(contract: InputContract | None, shape: tuple[int, ...], low: float, high: float) -> InputContract:
    """A contract with what it leaves open guessed: the layout by where colours can be, the bounds by what was seen."""
    if contract is None:
        contract = InputContract(shape)
    layout = contract.layout
    if not layout and len(shape) == 4:
        first, last = shape[1] in _COLOURS, shape[3] in _COLOURS
        layout = "" if first == last else "NCHW" if first else "NHWC"
    return replace(
        contract,
        shape=(None, *shape[1:]),
        layout=layout,
        low=low if contract.low is None else contract.low,
        high=high if contract.high is None else contract.high,
    )
