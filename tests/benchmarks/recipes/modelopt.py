"""NVIDIA ModelOpt: `modelopt.onnx.quantization.quantize`, int8 QDQ, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIRES = (
    "nvidia-modelopt", "onnxruntime", "onnx", "onnx_graphsurgeon", "tqdm", "nvidia-ml-py", "onnxslim", "onnxscript",
    "lief", "torch",
)  # fmt: skip
NO_DEPENDENCIES = ("nvidia-modelopt",)
"""Installed without what it declares: that would replace onnxruntime by onnxruntime-gpu."""
DTYPE = "int8"


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """Entropy, its default."""
    _quantize(model, inputs, out, "entropy")


def best(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """Max, the other method it has."""
    _quantize(model, inputs, out, "max")


def _quantize(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path, method: str) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(model), quantize_mode="int8", calibration_data=dict(inputs), calibration_method=method,
        calibration_eps=["cpu"], high_precision_dtype="fp32", output_path=str(out),
    )  # fmt: skip
