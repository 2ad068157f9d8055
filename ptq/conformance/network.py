"""A residual network small enough to quantize in a second, as ONNX and as Keras, with images to calibrate it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ptq.backends.protocol import FloatModel
from ptq.calibration.moments_pass import moments
from ptq.calibration.prepare import prepare
from ptq.calibration.statistics_pass import statistics
from ptq.data.samples import ArraySamples, FittedSamples
from ptq.engine.registry import Registry
from ptq.models.onnx_file import signature
from ptq.quantization.calibration import Calibration

INPUT = "x"
SIZE = 12
CLASSES = 4


def images(count: int, seed: int = 3) -> np.ndarray:
    """float32 images of shape (count, 12, 12, 3) in 0..255: whole numbers, a gradient and noise."""
    generator = np.random.default_rng(seed)
    slope = np.linspace(0, 1, SIZE)[None, :, None, None] * generator.uniform(0, 155, (count, 1, 1, 3))
    return np.rint(slope + generator.uniform(0, 100, (count, SIZE, SIZE, 3))).astype(np.float32)


def samples(count: int = 120, seed: int = 3) -> ArraySamples:
    labels = np.arange(count, dtype=np.int64) % CLASSES
    return ArraySamples(images(count, seed), labels, seed=seed)


def write_onnx(path: Path, batch: int | str = "N") -> None:
    """NHWC in; Conv+BatchNorm-free residual block with an asymmetric pad (0, 0, 1, 1) before a stride of 2."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(11)
    weights: list[onnx.TensorProto] = []

    def constant(name: str, values: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(name: str, given: str, inputs: int, outputs: int, **attributes: object) -> onnx.NodeProto:
        kernel = generator.normal(0, 0.7 / np.sqrt(9 * inputs), (outputs, inputs, 3, 3)).astype(np.float32)
        kernel[0] *= 4  # channels of different reach, so that per channel differs from per tensor
        bias = generator.normal(0, 0.1, outputs).astype(np.float32)
        operands = [given, constant(f"{name}.w", kernel), constant(f"{name}.b", bias)]
        return helper.make_node("Conv", operands, [name], name=name, kernel_shape=[3, 3], **attributes)

    head = generator.normal(0, 0.05, (16, CLASSES)).astype(np.float32)
    constant("scale", np.float32(1 / 64).reshape(1))
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"], name="scaled"),
        helper.make_node("Transpose", ["scaled"], ["nchw"], name="nchw", perm=[0, 3, 1, 2]),
        conv("stem", "nchw", 3, 8, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["stem"], ["stem_relu"], name="stem_relu"),
        conv("body", "stem_relu", 8, 8, pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["stem_relu", "body"], ["sum"], name="sum"),
        helper.make_node("Relu", ["sum"], ["sum_relu"], name="sum_relu"),
        conv("down", "sum_relu", 8, 16, pads=[0, 0, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["down"], ["down_relu"], name="down_relu"),
        helper.make_node("AveragePool", ["down_relu"], ["pool"], name="pool", kernel_shape=[6, 6], strides=[6, 6]),
        helper.make_node("Reshape", ["pool", constant("target", np.array([-1, 16]))], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", constant("h.w", head), constant("h.b", np.zeros(CLASSES, np.float32))],
                         ["logits"], name="logits"),
        helper.make_node("Softmax", ["logits"], ["p"], name="p", axis=-1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [batch, CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


KERAS_SCRIPT = """
import sys, numpy as np, keras
keras.utils.set_random_seed(5)
x = entry = keras.Input((12, 12, 3))
x = keras.layers.Rescaling(1 / 64)(x)
x = stem = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
x = keras.layers.Conv2D(8, 3, padding="same")(x)
x = keras.layers.ReLU()(keras.layers.Add()([x, stem]))
x = keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
x = keras.layers.Flatten()(keras.layers.AveragePooling2D(6)(x))
keras.Model(entry, keras.layers.Dense(4, activation="softmax")(x)).save(sys.argv[1])
"""
"""Writes the Keras form to its argument; run in a process of its own, as TensorFlow is always here."""


def float_model(folder: Path, keras: Path | None = None, batch: int | str = "N") -> FloatModel:
    """The network in every form a backend starts from, in `folder`."""
    model, prepared = folder / "tiny.onnx", folder / "tiny.prepared.onnx"
    write_onnx(model, batch)
    prepare(model, prepared)
    return FloatModel(model, prepared, keras)


def calibration(model: FloatModel, given: ArraySamples | None = None) -> Calibration:
    """Over `given` or 120 images; statistics on demand, every method there is."""
    chosen = FittedSamples(samples() if given is None else given, signature(model.onnx), "calibration")
    return Calibration(
        samples=chosen,
        statistics=lambda: statistics(model.prepared, chosen),
        methods=Registry().methods,
        moments=lambda: moments(model.prepared, chosen),
    )
