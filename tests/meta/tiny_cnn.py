"""A residual network small enough to quantize in a second: the one of ptq.conformance."""

from __future__ import annotations

from ptq.conformance.network import (
    CLASSES,
    KERAS_SCRIPT,
    SIZE,
    calibration,
    float_model,
    images,
    samples,
    write_onnx,
)

__all__ = ["CLASSES", "KERAS_SCRIPT", "SIZE", "calibration", "float_model", "images", "samples", "write_onnx"]
