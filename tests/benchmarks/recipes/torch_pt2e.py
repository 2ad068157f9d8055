"""torch PT2E: `torchao`'s X86InductorQuantizer, by ptq's backend. Its tutorial names no better one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIRES = ("torchao", "torch", "onnx2torch", "ptq")
DTYPE, BACKEND, SUFFIX = "u8s8", "torch_pt2e", ".pt2e"


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """Its default configuration: histograms, a weight scale a channel."""
    import ptq

    ptq.quantize(model, dict(inputs), out=out, backend=BACKEND, dtype=DTYPE, method="histogram", granularity="channel")
