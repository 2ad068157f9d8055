"""Readings: the usual ways an image is misread on its way into a model, each with what undoes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ptq.contract import InputContract
from ptq.samples import Float32


@dataclass(frozen=True)
class Reading:
    """One slip. `undo` maps a misread batch to what it should have been, same shape, or None where it cannot be."""

    cause: str
    undo: Callable[[Float32, InputContract], Float32 | None]


def _channels(batch: Float32, contract: InputContract) -> Float32 | None:
    axis = contract.channels
    return None if axis is None or batch.shape[axis] != 3 else np.flip(batch, axis)


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
    Reading("BGR where RGB should be (swapped channels)", _channels),
    Reading("divided by 255", lambda batch, _: batch * np.float32(255)),
    Reading("not divided by 255", lambda batch, _: batch / np.float32(255)),
    Reading("scaled to -1..1", lambda batch, _: (batch + 1) * np.float32(127.5)),
    Reading(
        "inverted (dark on light where light on dark should be)",
        lambda batch, contract: contract.low + contract.high - batch,
    ),
    Reading("height and width swapped", _axes),
    Reading("colour planes reshaped to pixels where they should be transposed (NCHW where NHWC should be)", _planes),
)
"""Every slip that is looked for, the commonest first."""
