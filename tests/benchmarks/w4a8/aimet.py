"""AIMET: `aimet_onnx.apply_adaround`, weights of 4 bits, saved with Q/DQ, run by onnxruntime. A recipe of its guide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIRES = ("aimet-onnx",)
DTYPE = "u8s4"
SLOW = ("best",)
"""It comes last: learning takes minutes."""


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """The defaults but for the bits: int4, a weight scale a channel, uint8, min_max; to the nearest."""
    _quantize(model, inputs, out, "min_max", 0)


def best(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """Ranges by the least error of the tensor, and AdaRound: 15,000 steps a layer, as is said for few bits."""
    _quantize(model, inputs, out, "tf_enhanced", 15_000)


def _quantize(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path, scheme: str, steps: int) -> None:
    import aimet_onnx
    import onnx

    simulated = aimet_onnx.QuantizationSimModel(
        onnx.load(model), quant_scheme=scheme, param_type=aimet_onnx.int4, activation_type=aimet_onnx.int8
    )
    rows = [
        {name: part[None] for name, part in zip(inputs, row, strict=True)}
        for row in zip(*inputs.values(), strict=True)
    ]  # fmt: skip
    if steps:
        aimet_onnx.apply_adaround(simulated, rows, num_iterations=steps)
    simulated.compute_encodings(rows)
    onnx.save(simulated.to_onnx_qdq(), out)
