"""A float TFLite file as ONNX, through tf2onnx. Runs in TensorFlow's process, see `ptq.models.convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ptq.data.batch import Batch
from ptq.errors import BadModel, one_line
from ptq.files import scratch
from ptq.models.original import OPSET, Original

_INTEGERS = {"INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16, "INT32": np.int32}


def read(source: Path) -> Original:
    """The model as ONNX; the batch varies where the file says so.

    A file whose weights alone are integers computes in float: they are taken as the floats they stand for, and
    `Original.note` says so. Names are those of the file's signature, else its tensors' without what TensorFlow adds.

    Raises `BadModel` when the file is not TFLite, when its activations are quantized, and when it cannot be converted.
    """
    import tensorflow as tf
    import tf2onnx
    from tensorflow.lite.tools import flatbuffer_utils as flatbuffer

    try:
        tf.lite.Interpreter(model_path=str(source))  # checks the file as a whole, which what follows does not
        model = flatbuffer.read_model(str(source))
    except Exception as error:
        raise BadModel(f"{source}: is not a whole TFLite model ({one_line(error)})") from error
    changed = _as_float(model, source, flatbuffer)
    _name(model)
    with scratch() as folder:
        path = folder / "model.tflite"
        flatbuffer.write_model(model, str(path))
        content = path.read_bytes()
        try:
            made, _ = tf2onnx.convert.from_tflite(str(path), opset=OPSET)
        except Exception as error:
            raise BadModel(f"{source}: tf2onnx cannot convert it ({one_line(error)})") from error
    made.graph.doc_string = "converted from TFLite"

    def run(batch: Batch) -> Batch:
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
        for detail in interpreter.get_input_details():
            interpreter.resize_tensor_input(detail["index"], batch[detail["name"]].shape)
        interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], batch[detail["name"]])
        interpreter.invoke()
        return {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()}

    note = f"{changed} integer weights of the file taken as the floats they stand for" if changed else ""
    return Original("TFLite", made, run, note)


def _as_float(model: Any, source: Path, flatbuffer: Any) -> int:
    """Put floats where constants are quantized; how many there were."""
    changed = 0
    for tensor in (each for graph in model.subgraphs for each in graph.tensors):
        scale = None if tensor.quantization is None else tensor.quantization.scale
        kind = flatbuffer.type_to_name(tensor.type)
        if scale is None or not len(scale) or kind == "FLOAT32":
            continue
        held = model.buffers[tensor.buffer].data
        if held is None or not len(held):
            name = one_line(tensor.name.decode(errors="replace"), 60)
            raise BadModel(f"{source}: is quantized already ({name!r} is {kind.lower()}); judge it as an artifact")
        if kind not in _INTEGERS:
            raise BadModel(f"{source}: has weights of {kind}, but should have floats or int8")
        quantized = np.frombuffer(bytes(held), _INTEGERS[kind]).reshape(tensor.shape).astype(np.float64)
        shape = [1] * quantized.ndim
        if len(scale) > 1:
            shape[tensor.quantization.quantizedDimension] = len(scale)
        zero = np.asarray(tensor.quantization.zeroPoint, np.float64)
        real = (quantized - zero.reshape(shape)) * np.asarray(scale, np.float64).reshape(shape)
        model.buffers.append(type(model.buffers[0])())
        model.buffers[-1].data = np.frombuffer(real.astype(np.float32).tobytes(), np.uint8)
        tensor.buffer, tensor.type, tensor.quantization = len(model.buffers) - 1, 0, None
        changed += 1
    for operator in (each for graph in model.subgraphs for each in graph.operators):
        if hasattr(operator.builtinOptions, "asymmetricQuantizeInputs"):  # what integer weights ask of a kernel
            operator.builtinOptions.asymmetricQuantizeInputs = False
    return changed


def _name(model: Any) -> None:
    """Call inputs and outputs as the signature does, where there is one, else without what TensorFlow adds."""
    graph = model.subgraphs[0]
    taken = {tensor.name for tensor in graph.tensors}
    signatures = model.signatureDefs or []
    said = signatures[0] if len(signatures) == 1 else None
    by_index = {each.tensorIndex: each.name for each in (*said.inputs, *said.outputs)} if said else {}
    for index in (*graph.inputs, *graph.outputs):
        tensor = graph.tensors[index]
        name = by_index.get(index, tensor.name.removeprefix(b"serving_default_").removesuffix(b":0"))
        if name not in taken:
            taken.add(name)
            tensor.name = name
