"""onnxruntime: `quantize_static`, QDQ, after its own pre-processing. Recipes as its documentation has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIRES = ("onnxruntime", "sympy")
DTYPE = "u8s8"


class Reader:
    """One image at a time, as the documentation's examples have it."""

    def __init__(self, inputs: Mapping[str, npt.NDArray[np.float32]]) -> None:
        self._rows: Iterator[tuple[npt.NDArray[np.float32], ...]] = zip(*inputs.values(), strict=True)
        self._names = tuple(inputs)

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        """The next feed; None at the end."""
        row = next(self._rows, None)
        return None if row is None else {name: part[None] for name, part in zip(self._names, row, strict=True)}


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """MinMax, a weight scale a tensor, u8s8: what "Quantize ONNX models" recommends to try first on x86."""
    _quantize(model, inputs, out, "MinMax", False)


def best(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """Percentile, a weight scale a channel: what the same page names for accuracy."""
    _quantize(model, inputs, out, "Percentile", True)


def _quantize(
    model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path, method: str, channel: bool
) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared))
    quantize_static(
        str(prepared), str(out), Reader(inputs), quant_format=QuantFormat.QDQ, per_channel=channel,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod[method],
    )  # fmt: skip
    prepared.unlink()
