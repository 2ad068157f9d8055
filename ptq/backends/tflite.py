"""TFLite: TensorFlow's converter from Keras (extra `tf`), run by LiteRT (extra `litert`, no TensorFlow needed)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ptq.backends.batching import in_batches
from ptq.backends.int8_proof import require_int8
from ptq.backends.protocol import Census, FloatModel, Predictor
from ptq.backends.tflite_convert import convert_float, convert_int8
from ptq.calibration.calibration import Calibration
from ptq.cases import FP32, Case
from ptq.errors import BadModel, NotInstalled, Unsupported
from ptq.samples import Float32

_UINT8 = (
    "TFLite: weights are int8 only; the converter, asked for supported_types=[tf.uint8], says "
    "'The inference_input_type and inference_output_type must be tf.float32.' and converts nothing"
)

_COMPUTE = {
    "CONV_2D": "Conv", "DEPTHWISE_CONV_2D": "Conv", "TRANSPOSE_CONV": "ConvTranspose", "FULLY_CONNECTED": "Gemm",
    "BATCH_MATMUL": "MatMul", "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "MEAN": "ReduceMean",
    "AVERAGE_POOL_2D": "AveragePool", "MAX_POOL_2D": "MaxPool", "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid",
    "RELU": "Relu", "RELU6": "Clip", "HARD_SWISH": "HardSwish", "CONCATENATION": "Concat", "TANH": "Tanh",
}  # fmt: skip
"""Compute by TFLite's operator -> ONNX's; what is not here moves data."""


class TfLite:
    """dtype ``int8`` is int8 activations, weights, input and output; artifacts made elsewhere may have other ends.

    Runs as many samples at a time as the model is made for, most often one.
    """

    name = "tflite"

    def missing(self) -> str | None:
        return None if find_spec("ai_edge_litert") is not None else "not installed: pip install 'ptq[litert]'"

    def versions(self) -> Mapping[str, str]:
        found = {}
        for each in ("tensorflow", "keras", "ai-edge-litert", "numpy"):
            try:
                found[each] = version(each)
            except PackageNotFoundError:
                found[each] = "absent"
        return found

    def cases(self, workload: str) -> Iterable[Case]:
        yield Case(workload, self.name, FP32)
        for granularity in ("tensor", "channel"):
            yield Case(workload, self.name, "int8", "minmax", granularity)
        yield Case(workload, self.name, "uint8", "minmax")

    def unsupported(self, case: Case) -> str | None:
        return _UINT8 if case.dtype == "uint8" else None

    def suffix(self, case: Case) -> str:
        return ".tflite"

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration, out: Path) -> Mapping[str, str]:
        if (reason := self.missing()) is not None:
            raise NotInstalled(f"{case.id}: {reason}")
        if (reason := self.unsupported(case)) is not None:
            raise Unsupported(f"{case.id}: {reason}")
        if model.keras is None:
            raise Unsupported(f"{case.id}: the workload's model is ONNX, but TFLite's converter starts from Keras")
        if case.is_float:
            convert_float(model.keras, out)
            return {}
        convert_int8(model.keras, out, calibration.samples, case.granularity == "channel")
        require_int8(case, self.census(out))
        return {
            "calibration": "own observers",
            "calibration_batch": "1",
            "activations": "int8 per tensor",
            "weights": f"int8 per {case.granularity}",
            "input_output": _ends(_interpreter(out, 1)),
        }

    def load(self, artifact: Path, threads: int = 1) -> Predictor:
        interpreter = _interpreter(artifact, threads)
        given, said = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

        def run(batch: Float32) -> Float32:
            interpreter.set_tensor(given["index"], _quantized(batch, given))
            interpreter.invoke()
            return _real(interpreter.get_tensor(said["index"]), said)

        return in_batches(run, int(given["shape"][0]))

    def input_shape(self, artifact: Path) -> tuple[int | None, ...]:
        # a batch of any size is fed in parts of the size the model is made for
        return (None, *(int(each) for each in _interpreter(artifact, 1).get_input_details()[0]["shape"][1:]))

    def census(self, artifact: Path) -> Census:
        _interpreter(artifact, 1)
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter()
        left: list[str] = []
        boundary = 0
        for name, operator, types in _operators(artifact):
            if operator in ("QUANTIZE", "DEQUANTIZE"):
                boundary += 1
            elif (known := _COMPUTE.get(operator)) is not None:
                is_integer = types[0] in ("INT8", "UINT8", "INT16")
                (integer if is_integer else floating)[known] += 1
                left.extend([] if is_integer else [name])
        ends = _ends(_interpreter(artifact, 1))
        # A float or uint8 end has a node of its own, which is no stray.
        own = sum(each != "int8" for each in ends.split("/")) if boundary else 0
        return Census(dict(integer), dict(floating), max(boundary - own, 0), _weight_bytes(artifact), tuple(left))

    def inspect(self, artifact: Path) -> list[tuple[str, str, str]]:
        """(name of the result, operator, element types of its inputs) of every operator, in order."""
        _interpreter(artifact, 1)
        return [(name, operator, ", ".join(types)) for name, operator, types in _operators(artifact)]


def _interpreter(artifact: Path, threads: int) -> Any:
    """An interpreter with its tensors allocated; `BadModel` when the file is not TFLite of one input."""
    if (reason := BACKEND.missing()) is not None:
        raise NotInstalled(f"{artifact}: {reason}")
    if not artifact.is_file():
        raise BadModel(f"{artifact}: no such file, but should be a .tflite model")
    from ai_edge_litert.interpreter import Interpreter

    try:
        with _quiet():
            interpreter = Interpreter(model_path=str(artifact), num_threads=threads)
            interpreter.allocate_tensors()
    # The runtime raises ValueError and RuntimeError with its own words.
    except Exception as error:
        raise BadModel(f"{artifact}: is not a whole TFLite model ({' '.join(str(error).split())[:200]})") from error
    count = len(interpreter.get_input_details())
    if count != 1:
        raise BadModel(f"{artifact}: {count} inputs, but should have exactly 1")
    return interpreter


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the runtime's line about its delegate from the user's terminal: it is written below Python."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _quantized(batch: Float32, detail: Mapping[str, Any]) -> Any:
    """Real inputs as the model's element type, saturated."""
    if detail["dtype"] == np.float32:
        return np.ascontiguousarray(batch, dtype=np.float32)
    scale, zero_point = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    steps = np.rint(batch / np.float32(scale)) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(detail["dtype"])


def _real(values: Any, detail: Mapping[str, Any]) -> Float32:
    if detail["dtype"] == np.float32:
        return np.array(values, dtype=np.float32)
    scale, zero_point = detail["quantization"]
    real: Float32 = (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    return real


def _ends(interpreter: Any) -> str:
    details = (interpreter.get_input_details()[0], interpreter.get_output_details()[0])
    return "/".join(np.dtype(each["dtype"]).name for each in details)


def _model(artifact: Path) -> tuple[Any, Any]:
    """(the flatbuffer's model, its schema); only of a file the interpreter has accepted."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAsModel(artifact.read_bytes(), 0), schema


def _operators(artifact: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(name of the first output, operator, element types of the inputs) of every operator, in order."""
    model, schema = _model(artifact)
    operators = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    types = {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    graph = model.Subgraphs(0)
    for index in range(graph.OperatorsLength()):
        each = graph.Operators(index)
        code = model.OperatorCodes(each.OpcodeIndex())
        # The first field is a byte, kept for old files; the second holds what no longer fits.
        operator = operators.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "CUSTOM")
        inputs = [each.Inputs(at) for at in range(each.InputsLength())]
        name = graph.Tensors(each.Outputs(0)).Name().decode() if each.OutputsLength() else ""
        yield name, operator, tuple(types[graph.Tensors(at).Type()] for at in inputs if at >= 0)


def _weight_bytes(artifact: Path) -> dict[str, int]:
    model, schema = _model(artifact)
    types = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    found: Counter[str] = Counter()
    graph = model.Subgraphs(0)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        size = model.Buffers(tensor.Buffer()).DataLength()
        if size and tensor.ShapeLength() > 1:
            found[types[tensor.Type()]] += size
    return dict(found)


BACKEND = TfLite()
