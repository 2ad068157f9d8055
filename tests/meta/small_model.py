"""A small convolutional ONNX model and images for it; and any model of a few nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ptq.data.samples import ArraySamples, FittedSamples
from ptq.models.onnx_file import signature

GENERATOR = np.random.default_rng(0)
IMAGES = ArraySamples(np.maximum(GENERATOR.normal(size=(40, 3, 8, 8)) + 0.5, 0).astype(np.float32))


def small_model(path: Path, batch: int | str = "n") -> Path:
    """Conv, Relu, Conv without a bias, AveragePool over the whole map, Reshape, Gemm, MatMul."""
    generator = np.random.default_rng(1)

    def constant(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(
            (generator.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32), name
        )

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="c1", pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="c2", group=2, kernel_shape=[3, 3]),
        helper.make_node("AveragePool", ["c2"], ["p"], kernel_shape=[6, 6]),
        helper.make_node("Reshape", ["p", "shape"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["g"], name="g", transB=1),
        helper.make_node("MatMul", ["g", "w4"], ["y"], name="m"),
    ]
    held = [constant("w1", 8, 3, 3, 3), constant("b1", 8), constant("w2", 8, 4, 3, 3), constant("w3", 6, 8)]
    held += [constant("b3", 6), constant("w4", 6, 4), numpy_helper.from_array(np.array([-1, 8], np.int64), "shape")]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])
    exit_ = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])
    model = helper.make_model(
        helper.make_graph(nodes, "small", [entry], [exit_], held),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def fit(model: Path, samples: ArraySamples) -> FittedSamples:
    """Samples as the model takes them."""
    return FittedSamples(samples, signature(model), "calibration")


def model_of(path: Path, nodes: list[Any], shape: list[Any], exit_shape: list[Any], held: Any = ()) -> Path:
    """Input x, output y."""
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    exit_ = helper.make_tensor_value_info("y", TensorProto.FLOAT, exit_shape)
    graph = helper.make_graph(nodes, "graph", [entry], [exit_], list(held))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
