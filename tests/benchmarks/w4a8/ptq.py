"""ptq: `ptq.quantize`, weights of 4 bits in all layers, QDQ, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIRES = ("ptq",)
DTYPE = "u8s4"


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """As it is: `mse_gptaq`, a weight scale a channel."""
    import ptq

    ptq.quantize(model, dict(inputs), out=out, dtype=DTYPE)
