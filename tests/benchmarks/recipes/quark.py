"""AMD Quark: `quark.onnx.ModelQuantizer`, QDQ, run by onnxruntime. Recipes are its named configurations."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIRES = ("amd-quark", "onnxruntime", "torch")
DTYPE = "u8s8"
SLOW = ("documented", "best")
"""Its rows come last: it compiles its operators at the first import, and AdaRound takes minutes."""


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """``U8S8_AAWS``: uint8 activations, int8 weights."""
    _quantize(model, inputs, out, "U8S8_AAWS")


def best(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """``U8S8_AAWS_ADAROUND``: with the rounding of weights learnt."""
    _quantize(model, inputs, out, "U8S8_AAWS_ADAROUND")


def _quantize(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path, name: str) -> None:
    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config.config import Config
    from quark.onnx.quantization.config.custom_config import get_default_config

    path = Path(__file__).with_name("onnxruntime.py")  # its reader is onnxruntime's
    spec = importlib.util.spec_from_file_location("onnxruntime_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    config = Config(global_quant_config=get_default_config(name))
    ModelQuantizer(config).quantize_model(str(model), str(out), reader.Reader(inputs))
