"""ptq: `ptq.quantize`, QDQ, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIRES = ("ptq",)
DTYPE = "u8s8"


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """As it is: `mse_gptq`, a weight scale a channel; u8s8 on CPUs without VNNI too."""
    _quantize(model, inputs, out, "mse_gptq")


def best(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """`cle_mse_gptq`: channels are first brought to one size across layers, for depthwise convolutions."""
    _quantize(model, inputs, out, "cle_mse_gptq")


def _quantize(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path, method: str) -> None:
    import ptq

    ptq.quantize(model, dict(inputs), out=out, dtype=DTYPE, method=method, granularity="channel")
