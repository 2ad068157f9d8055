"""Models that do one thing again and again: an ONNX ``Loop``, TFLite's ``WHILE``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper, numpy_helper


def onnx_loop(trips: int) -> Any:
    """A model of input ``x`` (N, 3, 4, 4) that does nothing `trips` times."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["co"]), helper.make_node("Identity", ["v"], ["vo"])], "b",
        [value("i", 7, []), value("c", 9, []), value("v", 1, None)], [value("co", 9, []), value("vo", 1, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["a"]),
        helper.make_node("Loop", ["trips", "true", "a"], ["y"], body=body),
    ]
    held = [
        numpy_helper.from_array(np.ones((48, 5), np.float32), "g"),
        numpy_helper.from_array(np.array(trips, np.int64), "trips"),
        numpy_helper.from_array(np.array(True), "true"),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["N", 3, 4, 4])], [value("y", 1, ["N", 5])], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_tflite_while(path: Path) -> None:
    """A model of input ``x`` (1,) that doubles it as long as it is less than 5: 0 for ever."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, shape: list[int], kind: int, buffer: int = 0) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
        return made

    def graph(tensors: list[Any], inputs: list[int], outputs: list[int], *operators: Any) -> Any:
        made = schema.SubGraphT()
        made.tensors, made.inputs, made.outputs, made.operators = tensors, inputs, outputs, list(operators)
        return made

    def operator(code: int, inputs: list[int], outputs: list[int], kind: int, options: Any) -> Any:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, inputs, outputs
        made.builtinOptionsType, made.builtinOptions = kind, options
        return made

    model, codes, known = schema.ModelT(), [], schema.BuiltinOperator
    for kind in (known.WHILE, known.LESS, known.ADD):
        codes.append(schema.OperatorCodeT())
        codes[-1].builtinCode = codes[-1].deprecatedBuiltinCode = kind
    model.version, model.operatorCodes, model.buffers = 3, codes, [schema.BufferT(), schema.BufferT()]
    model.buffers[1].data = np.frombuffer(np.float32(5).tobytes(), np.uint8)
    float32, options = schema.TensorType.FLOAT32, schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    x = tensor("x", [1], float32)
    loop = operator(0, [0], [1], schema.BuiltinOptions.WhileOptions, options)
    less = operator(1, [0, 1], [2], schema.BuiltinOptions.LessOptions, schema.LessOptionsT())
    add = operator(2, [0, 0], [1], schema.BuiltinOptions.AddOptions, schema.AddOptionsT())
    model.subgraphs = [
        graph([x, tensor("y", [1], float32)], [0], [1], loop),
        graph([x, tensor("most", [1], float32, 1), tensor("less", [1], schema.TensorType.BOOL)], [0], [2], less),
        graph([x, tensor("sum", [1], float32)], [0], [1], add),
    ]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
