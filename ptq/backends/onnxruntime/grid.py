"""Grid: scale and zero point of a tensor, as onnxruntime's ``TensorQuantOverrides`` has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.quantization.dtype import Integer

Grid = list[dict[str, Any]]
"""One entry, or one a channel."""


def quant_type(integer: Integer) -> Any:
    """The `QuantType` of what holds an integer: its name is Q, then ONNX's name of the type."""
    from onnxruntime.quantization import QuantType

    return QuantType[f"Q{integer.numpy.replace('uint', 'UInt').replace('int', 'Int')}"]


def grid(integer: Integer, scale: npt.ArrayLike, zero_point: npt.ArrayLike, axis: int | None = None) -> Grid:
    """The grid of `scale` and `zero_point`, of shape () or (channels,); `axis` is that of the channels."""
    held = np.dtype(f"{'' if integer.signed else 'u'}int{max(integer.bits, 8)}")  # four bits are held in eight
    entries: Grid = [
        {"quant_type": quant_type(integer), "scale": np.array(step, np.float32), "zero_point": np.array(zero, held)}
        for step, zero in zip(np.atleast_1d(scale), np.atleast_1d(zero_point), strict=True)
    ]
    if axis is not None:
        entries[0]["axis"] = axis
    return entries
