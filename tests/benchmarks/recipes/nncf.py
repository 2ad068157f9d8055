"""NNCF: `nncf.quantize` of an ONNX model; the result is ONNX, run by onnxruntime. Recipes as its README has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

REQUIRES = ("nncf", "openvino", "onnx", "onnxruntime")
DTYPE = "u8s8"


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """The defaults, with all calibration images."""
    _quantize(model, inputs, out)


def best(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """`fast_bias_correction=False`: slower, and named as the more accurate."""
    _quantize(model, inputs, out, fast_bias_correction=False)


def _quantize(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path, **options: Any) -> None:
    import nncf
    import onnx

    rows = zip(*inputs.values(), strict=True)
    feeds = [{name: part[None] for name, part in zip(inputs, row, strict=True)} for row in rows]
    made = nncf.quantize(onnx.load(model), nncf.Dataset(feeds), subset_size=len(feeds), **options)
    onnx.save(made, out)
