"""torch FX: `torch.ao.quantization` in graph mode, by ptq's backend. Its tutorial names no better one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIRES = ("torch", "torchao", "onnx2torch", "ptq")
DTYPE, BACKEND, SUFFIX = "u8s8", "torch", ".pt"


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """The qconfig mapping of its engine: histograms, a weight scale a channel."""
    import ptq

    ptq.quantize(model, dict(inputs), out=out, backend=BACKEND, dtype=DTYPE, method="default", granularity="channel")
