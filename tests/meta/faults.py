"""Faults planted in models and in calibration data, each one thing that quantization is known to fail by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ptq.calibration.prepare import prepare
from ptq.data.samples import ArraySamples
from ptq.models.graph import Graph
from ptq.models.onnx_file import load
from ptq.workloads.digits import MODEL

FIRST, SECOND = "stack16_conv1_1", "stack16_conv2_1"
"""Two convolutions of the digits model that follow one another, by a part of their names."""


def digits(path: Path, edit: Callable[[Any, Any, Any], None] | None = None) -> Path:
    """The digits model with BatchNorm in its convolutions; `edit` is given (held, first, second): the initializers and
    the two convolutions."""
    prepare(MODEL, path)
    model = load(path)
    if edit is not None:
        nodes = [next(node for node in model.graph.node if name in node.name) for name in (FIRST, SECOND)]
        edit(Graph(model.graph).initializers, *nodes)
        onnx.save(model, path)
    return path


def _set(held: Any, name: str, values: Any) -> None:
    held[name].CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), name))


def scaled_channel(held: Any, first: Any, second: Any) -> None:
    """One channel of a convolution times 100, undone in the next; it keeps the function."""
    for name in (first.input[1], first.input[2]):
        values = numpy_helper.to_array(held[name]).copy()
        values[3] *= 100
        _set(held, name, values)
    weights = numpy_helper.to_array(held[second.input[1]]).copy()
    weights[:, 3] /= 100
    _set(held, second.input[1], weights)


def shifted_channel(held: Any, first: Any, second: Any) -> None:
    """A bias that sets a channel to 40 times what the others reach; nothing reads that channel. Stated: it is lost."""
    weights, bias = (numpy_helper.to_array(held[name]).copy() for name in first.input[1:3])
    weights[5], bias[5] = 0, 40 * 8.0
    _set(held, first.input[1], weights)
    _set(held, first.input[2], bias)
    reading = numpy_helper.to_array(held[second.input[1]]).copy()
    reading[:, 5] = 0
    _set(held, second.input[1], reading)


def widely_read_channel(held: Any, first: Any, second: Any) -> None:
    """Weights of 500 times all others read a channel that is always zero; it keeps the function."""
    weights, bias = (numpy_helper.to_array(held[name]).copy() for name in first.input[1:3])
    weights[4], bias[4] = 0, -1.0
    _set(held, first.input[1], weights)
    _set(held, first.input[2], bias)
    reading = numpy_helper.to_array(held[second.input[1]]).copy()
    reading[:, 4] = 500 * np.abs(reading).max()
    _set(held, second.input[1], reading)


def between(path: Path, kind: str, there: Any, back: str, again: Any) -> Path:
    """The digits model with two nodes before its second convolution that undo one another, ``there`` and ``again``."""
    model = load(digits(path))
    graph, second = model.graph, next(node for node in model.graph.node if SECOND in node.name)
    place = list(graph.node).index(second)
    for name, value in (("there_by", there), ("again_by", again)):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    graph.node.insert(place, helper.make_node(back, ["moved", "again_by"], ["back"], "again"))
    graph.node.insert(place, helper.make_node(kind, [second.input[0], "there_by"], ["moved"], "there"))
    second.input[0] = "back"
    onnx.save(model, path)
    return path


def spread_channels(path: Path) -> Path:
    """Channels times 1 to 1,000, and back."""
    factors = np.random.default_rng(3).permutation(np.logspace(0, 3, 16)).reshape(1, 16, 1, 1)
    return between(path, "Mul", factors, "Mul", 1 / factors)


def far_from_zero(path: Path) -> Path:
    """All values moved by 2,000, and back."""
    return between(path, "Add", 2000, "Sub", 2000)


def normed_encoder(path: Path, outlier: float) -> Path:
    """The small encoder with a LayerNormalization, one of whose factors is `outlier`, undone in what reads it."""
    model = load(masked_encoder(path, -20.0))
    held, reader = Graph(model.graph).initializers, next(node for node in model.graph.node if node.name == "out")
    gamma = np.ones(16, np.float32)
    gamma[5] = outlier
    _set(held, "wo", numpy_helper.to_array(held["wo"]) / gamma[:, None])
    model.graph.initializer.append(numpy_helper.from_array(gamma, "gamma"))
    norm = helper.make_node("LayerNormalization", [reader.input[0], "gamma"], ["normed"], "norm", axis=-1)
    model.graph.node.insert(list(model.graph.node).index(reader), norm)
    reader.input[0] = "normed"
    onnx.save(model, path)
    return path


def photographs(count: int, seed: int) -> np.ndarray[Any, Any]:
    """Smooth colour noise of any brightness, float32 (count, 3, 16, 16) in 0..255, more red than blue."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0, 1, (count, 3, 4, 4)).repeat(4, axis=2).repeat(4, axis=3)
    mean = np.array([140.0, 120.0, 90.0])[None, :, None, None]
    images = mean + 90 * (coarse - 0.5) + generator.normal(0, 8, coarse.shape)
    return np.clip(images * generator.uniform(0.3, 1.8, (count, 1, 1, 1)), 0, 255).astype(np.float32)


def classifier(path: Path, kernel: int = 3, positive: bool = False) -> Path:
    """Conv, Relu, Conv, Relu, GlobalAveragePool, Gemm over images (n, 3, 16, 16) in 0..255. With `positive` the
    weights of the first are nearly equal, so all are nearly as large as they can be: neighbouring products of a bright
    image pass 16 bits.
    """
    generator = np.random.default_rng(11)

    def constant(name: str, *shape: int, scale: float = 1.0) -> Any:
        values = generator.normal(size=shape) * scale / np.sqrt(max(np.prod(shape[1:]), 1))
        if positive and name == "w1":
            values = generator.uniform(0.8, 1.0, shape) * scale / np.prod(shape[1:])
        return numpy_helper.from_array(values.astype(np.float32), name)

    pads = [kernel // 2] * 4
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "c1", kernel_shape=[kernel] * 2, pads=pads),
        helper.make_node("Relu", ["c1"], ["r1"], "r1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "c2", kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"], "r2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "p"),
        helper.make_node("Flatten", ["p"], ["f"], "f"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "g", transB=1),
    ]
    held = [
        constant("w1", 16, 3, kernel, kernel, scale=0.02), constant("b1", 16, scale=0.1),
        constant("w2", 16, 16, 3, 3), constant("b2", 16, scale=0.1), constant("w3", 8, 16), constant("b3", 8),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "classifier", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])], held,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def masked_encoder(path: Path, constant: float) -> Path:
    """The small encoder with `constant` where words are absent."""
    from small_encoder import write_encoder

    model = load(write_encoder(path))
    Graph(model.graph).initializers["lowest"].CopyFrom(numpy_helper.from_array(np.float32(constant), "lowest"))
    onnx.save(model, path)
    return path


def padded_sentences(count: int, seed: int) -> ArraySamples:
    """Sentences of one length, some of whose words are absent."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 10, count)
    mask = (np.arange(10)[None] < lengths[:, None]).astype(np.int64)
    return ArraySamples({"ids": generator.integers(0, 50, (count, 10)) * mask, "mask": mask})
