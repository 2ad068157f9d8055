"""A .tflite file: what its graph is made of, and what of it computes in integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptq.backends.protocol import COUNTED, Census
from ptq.errors import one_line

_KINDS = {
    "CONV_2D": "Conv", "DEPTHWISE_CONV_2D": "Conv", "CONV_3D": "Conv", "TRANSPOSE_CONV": "ConvTranspose",
    "CONV_3D_TRANSPOSE": "ConvTranspose", "FULLY_CONNECTED": "Gemm", "BATCH_MATMUL": "MatMul", "ADD": "Add",
    "AVERAGE_POOL_2D": "AveragePool", "MAX_POOL_2D": "MaxPool", "LSTM": "LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM": "LSTM",
}  # fmt: skip
_GLOBAL = {"MEAN": "GlobalAveragePool", "REDUCE_MAX": "GlobalMaxPool"}
_INTEGERS = frozenset({"INT4", "INT8", "UINT8", "INT16"})


@dataclass(frozen=True)
class Operator:
    """`name` of its first output; `kind` is TFLite's word; `types` are its inputs' element types.

    `counted` is the kind by ONNX's name, None for one the census leaves out; `is_end` says that it reads an input of
    the model or writes an output.
    """

    name: str
    kind: str
    types: tuple[str, ...]
    counted: str | None
    is_end: bool


def operators(artifact: Path) -> Iterator[Operator]:
    """Every operator, in order; only of a file the interpreter has accepted."""
    model, schema = _model(artifact)
    kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    types = _types(schema)
    graph = model.Subgraphs(0)
    ends = {*graph.InputsAsNumpy().tolist(), *graph.OutputsAsNumpy().tolist()}
    for index in range(graph.OperatorsLength()):
        found = graph.Operators(index)
        code = model.OperatorCodes(found.OpcodeIndex())
        # The first field is a byte, kept for old files; the second holds what no longer fits.
        kind = kinds.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "CUSTOM")
        inputs = [at for number in range(found.InputsLength()) if (at := found.Inputs(number)) >= 0]
        outputs = [found.Outputs(number) for number in range(found.OutputsLength())]
        name = graph.Tensors(outputs[0]).Name() if outputs else b""
        counted = _GLOBAL[kind] if kind in _GLOBAL and _over_the_map(model, graph, inputs) else _KINDS.get(kind)
        is_end = bool(ends & {*inputs[:1], *outputs})
        shown = one_line(name.decode(errors="replace")) if name else ""
        yield Operator(shown, kind, tuple(types[graph.Tensors(at).Type()] for at in inputs), counted, is_end)


def census(artifact: Path) -> Census:
    """What LiteRT executes; only of a file the interpreter has accepted."""
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    left: list[str] = []
    stray = 0
    for found in operators(artifact):
        is_float = any(name.startswith("FLOAT") for name in found.types)
        if found.kind in ("QUANTIZE", "DEQUANTIZE"):
            # An end of other type than the graph inside has a node of its own; float16 weights have one each.
            stray += not found.is_end and found.types != ("FLOAT16",)
        elif found.counted in COUNTED and is_float:
            floating[found.counted] += 1
            left.append(found.name)
        elif found.counted in COUNTED and _INTEGERS & {*found.types}:  # else it computes a shape
            integer[found.counted] += 1
    return Census(dict(integer), dict(floating), stray, _weight_bytes(artifact), tuple(left))


def loops(artifact: Path) -> bool:
    """Whether it may run for ever; only of a file the interpreter has accepted."""
    model, schema = _model(artifact)
    known = schema.BuiltinOperator
    repeat = {known.WHILE, known.CALL, known.CALL_ONCE, known.STABLEHLO_WHILE}
    codes = (model.OperatorCodes(at) for at in range(model.OperatorCodesLength()))
    return any(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) in repeat for code in codes)


def _over_the_map(model: Any, graph: Any, inputs: list[int]) -> bool:
    """Whether a reduction of (N, H, W, C) is over H and W alone."""
    if len(inputs) != 2 or graph.Tensors(inputs[0]).ShapeLength() != 4:
        return False
    held = model.Buffers(graph.Tensors(inputs[1]).Buffer())
    axes = np.frombuffer(held.DataAsNumpy().tobytes() if held.DataLength() else b"", "<i4")
    return {int(axis) % 4 for axis in axes} == {1, 2}


def _weight_bytes(artifact: Path) -> dict[str, int]:
    model, schema = _model(artifact)
    types = _types(schema)
    found: Counter[str] = Counter()
    graph = model.Subgraphs(0)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        size = model.Buffers(tensor.Buffer()).DataLength()
        if size and tensor.ShapeLength() > 1:
            found[types[tensor.Type()].lower()] += size
    return dict(found)


def _types(schema: Any) -> dict[int, str]:
    return {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}


def _model(artifact: Path) -> tuple[Any, Any]:
    """(the flatbuffer's model, its schema)."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAsModel(artifact.read_bytes(), 0), schema
