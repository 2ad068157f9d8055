"""AIMET: `aimet_onnx.QuantizationSimModel`, saved with Q/DQ, run by onnxruntime. Recipes of its guide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIRES = ("aimet-onnx",)
DTYPE = "u8s8"


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """The defaults: int8, min_max."""
    _quantize(model, inputs, out, "min_max", False)


def best(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """Batch norms folded, layers equalized, ranges by the least error of the tensor (`tf_enhanced`)."""
    _quantize(model, inputs, out, "tf_enhanced", True)


def _quantize(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path, scheme: str, equal: bool) -> None:
    import aimet_onnx
    import onnx

    loaded = onnx.load(model)
    if equal:
        from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
        from aimet_onnx.cross_layer_equalization import equalize_model

        fold_all_batch_norms_to_weight(loaded)
        equalize_model(loaded)
    simulated = aimet_onnx.QuantizationSimModel(loaded, quant_scheme=scheme)
    rows = zip(*inputs.values(), strict=True)
    simulated.compute_encodings([
        {name: part[None] for name, part in zip(inputs, row, strict=True)} for row in rows
    ])  # fmt: skip
    onnx.save(simulated.to_onnx_qdq(), out)
