"""Graph preparation: shape inference and Conv+BatchNorm fusion, the steps of onnxruntime's own quant_pre_process."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptq.data.batch import FINITE
from ptq.errors import one_line
from ptq.files import scratch, write_bytes
from ptq.models.graph import tensors
from ptq.models.onnx_file import load, serialized
from ptq.models.session import session

OPSET = 13
"""The first ONNX operator set whose DequantizeLinear takes one scale a channel."""


def prepare(model: Path, out: Path) -> Mapping[str, str]:
    """Write the prepared form of a float model to `out`; returns notes on what was converted or could not be done.

    Converters leave a BatchNorm as Conv, Mul, Add; quantizing that graph puts a quantizer between each of them. A model
    of an older operator set than `OPSET` is converted to it. A step that fails is left out, and said: symbolic shape
    inference does not know every model, and calibration needs the types of tensors more than their shapes.

    Raises `BadModel` when onnxruntime cannot run the model at all.
    """
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    proto, notes = load(model), dict[str, str]()
    with _quiet():
        steps = (("opset", _modern), ("infinities", _finite), ("symbolic shapes", _symbolic), ("fusion", _fused))
        for name, step in (*steps, ("shapes", _shaped)):
            try:
                proto = step(proto, model, notes)
            except Exception as error:  # onnx and onnxruntime raise unrelated classes of their own
                notes[name] = f"left out ({type(error).__name__}: {one_line(error)})"
                if step is _fused:
                    session(serialized(proto, model), optimize=False, name=model)
        add_pre_process_metadata(proto)
        for index, node in enumerate(proto.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"  # what is kept in float is kept by name
    write_bytes(out, serialized(proto, model))
    return notes


def _modern(proto: Any, model: Path, notes: dict[str, str]) -> Any:
    import onnx

    version = next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), OPSET)
    if version >= OPSET:
        return proto
    converted = onnx.version_converter.convert_version(proto, OPSET)
    notes["opset"] = f"{version} converted to {OPSET}"
    return converted


def _finite(proto: Any, model: Path, notes: dict[str, str]) -> Any:
    """Infinite constants as finite ones, of which masks are made too: see `ptq.data.batch.FINITE`."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    changed, large = 0, float(np.finfo(np.float32).max) * FINITE
    for tensor in tensors(proto):
        if tensor.data_type == TensorProto.FLOAT and not np.isfinite(values := numpy_helper.to_array(tensor)).all():
            finite = np.where(np.isinf(values), np.sign(values) * large, values).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(finite, tensor.name))
            changed += 1
    if changed:
        notes["infinities"] = f"{changed} constants hold {large:.2g} in place of infinity"
    return proto


def _symbolic(proto: Any, model: Path, notes: dict[str, str]) -> Any:
    """With every input dimension fixed, plain shape inference knows every shape already."""
    if all(each.dim_value > 0 for value in proto.graph.input for each in value.type.tensor_type.shape.dim):
        return proto
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    # where it fails, it leaves the model in the current folder
    with scratch() as folder, contextlib.chdir(folder):
        return SymbolicShapeInference.infer_shapes(proto, 2**31 - 1, False, False, 0)


def _fused(proto: Any, model: Path, notes: dict[str, str]) -> Any:
    """What onnxruntime's basic optimizations leave: constants folded, a BatchNorm inside its convolution."""
    import onnx

    with scratch() as folder:
        fused = folder / "fused.onnx"
        session(serialized(proto, model), basic=True, save_to=fused, name=model)
        return onnx.load(fused)


def _shaped(proto: Any, model: Path, notes: dict[str, str]) -> Any:
    import onnx

    return onnx.shape_inference.infer_shapes(proto)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What these libraries print and warn of is theirs: a failure is in the notes."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
