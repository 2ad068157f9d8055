"""Intel Neural Compressor for ONNX: `onnx_neural_compressor.quantization.quantize`, QDQ, run by onnxruntime."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIRES = ("onnx-neural-compressor", "onnxruntime", "prettytable", "py-cpuinfo", "psutil", "schema")
"""The last four it imports and does not declare."""
DTYPE = "u8s8"


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """The defaults of `StaticQuantConfig` in QDQ: MinMax, a weight scale a tensor."""
    _quantize(model, inputs, out, False)


def best(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """A weight scale a channel."""
    _quantize(model, inputs, out, True)


def _quantize(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path, channel: bool) -> None:
    import onnx
    from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize

    path = Path(__file__).with_name("onnxruntime.py")  # its reader has onnxruntime's form, and rewind
    spec = importlib.util.spec_from_file_location("onnxruntime_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reader = module.Reader(inputs)
    reader.rewind = lambda: reader.__init__(inputs)
    wanted = config.StaticQuantConfig(
        reader, quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        per_channel=channel,
    )  # fmt: skip
    quantize(str(model), str(out), wanted)
    onnx.save(onnx.load(out), out)  # weights beside the file come into it
