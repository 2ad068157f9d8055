"""Graph preparation: shape inference and Conv+BatchNorm fusion, by onnxruntime's own quant_pre_process."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

from ptq.errors import BadModel
from ptq.models.onnx_file import load


def prepare(model: Path, out: Path) -> None:
    """Write the prepared form of a float model to `out`.

    Converters leave a BatchNorm as Conv, Mul, Add; quantizing that graph puts a quantizer between each of them.
    Raises `BadModel` when onnxruntime cannot prepare it.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    proto = load(model)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside onnxruntime's own code, not the caller's
            # By path: given a ModelProto, and no symbolic pass before it, the optimizer writes weights nobody can find.
            quant_pre_process(str(model), str(out), skip_symbolic_shape=_static(proto))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadModel(f"{model}: onnxruntime cannot prepare it for quantization ({reason})") from error


def _static(proto: object) -> bool:
    """Whether every input dimension is fixed: then plain shape inference knows every shape already."""
    graph = proto.graph  # type: ignore[attr-defined]
    return all(each.dim_value > 0 for value in graph.input for each in value.type.tensor_type.shape.dim)
