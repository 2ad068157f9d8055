"""Models that are no image classifiers: a sentence encoder of three integer inputs of any length, an autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WORDS = ("input_ids", "attention_mask", "token_type_ids")


def encoder(path: Path) -> Path:
    """Ids, mask and kinds, int64 (N, L) -> embedding, float32 (N, 6): a masked mean of what a MatMul makes of words."""
    generator = np.random.default_rng(5)

    def held(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(generator.normal(0, 1, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["word"], name="word"),
        helper.make_node("Gather", ["kinds", "token_type_ids"], ["kind"], name="kind"),
        helper.make_node("Add", ["word", "kind"], ["both"], name="both"),
        helper.make_node("MatMul", ["both", "w"], ["made"], name="made"),
        helper.make_node("Tanh", ["made"], ["bounded"], name="bounded"),
        helper.make_node("Cast", ["attention_mask"], ["mask"], name="mask", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"], name="column"),
        helper.make_node("Mul", ["bounded", "column"], ["kept"], name="kept"),
        helper.make_node("ReduceMean", ["kept"], ["embedding"], name="mean", axes=[1], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "L"]) for name in WORDS]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 6])
    weights = [
        held("words", 30, 8),
        held("kinds", 2, 8),
        held("w", 8, 6),
        numpy_helper.from_array(np.array([2]), "last"),
    ]
    return _saved(path, nodes, inputs, output, weights)


def sentences(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """`count` sentences of 3 to 7 words, each a mapping of int64 arrays (L,)."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(generator.integers(3, 8))
        rows = (generator.integers(0, 30, length), np.ones(length, np.int64), np.zeros(length, np.int64))
        found.append(dict(zip(WORDS, rows, strict=True)))
    return found


def autoencoder(path: Path) -> Path:
    """x, float32 (N, 16) -> y, float32 (N, 16), over four hidden units."""
    generator = np.random.default_rng(6)
    weights = [
        numpy_helper.from_array(generator.normal(0, 0.3, shape).astype(np.float32), name)
        for name, shape in (("w1", (16, 4)), ("b1", (4,)), ("w2", (4, 16)), ("b2", (16,)))
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="down"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name="up"),
    ]
    entry, exit_ = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 16]) for name in ("x", "y"))
    return _saved(path, nodes, [entry], exit_, weights)


def two_scales(path: Path) -> Path:
    """x, float32 (N, 8, 8, 1) -> y (N, 128): a Concat of what a Gemm makes and of a hundred times that."""
    square = np.random.default_rng(7).normal(0, 0.1, (64, 64)).astype(np.float32)
    weights = [numpy_helper.from_array(square, name) for name in "vw"]
    weights += [numpy_helper.from_array(np.float32(100), "hundred")]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "v"], ["first"], name="first"),
        helper.make_node("Gemm", ["first", "w"], ["small"], name="small"),
        helper.make_node("Mul", ["small", "hundred"], ["large"], name="large"),
        helper.make_node("Concat", ["small", "large"], ["y"], name="join", axis=1),
    ]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 8, 1])
    exit_ = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 128])
    return _saved(path, nodes, [entry], exit_, weights)


def _saved(path: Path, nodes: list[Any], inputs: list[Any], output: Any, weights: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "graph", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
