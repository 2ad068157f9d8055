"""Small detectors as ONNX: a convolutional body, three heads on maps of falling size, answers as exports have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ptq.data.samples import ArraySamples

CLASSES = 6


def pictures(count: int = 24, seed: int = 0) -> ArraySamples:
    """Noise with a few bright squares, float32 (count, 3, 64, 64) in 0..1."""
    generator = np.random.default_rng(seed)
    images = generator.uniform(0.3, 0.5, (count, 3, 64, 64)).astype(np.float32)
    for image in images:
        for _ in range(3):
            x, y, size = *generator.integers(0, 48, 2), generator.integers(6, 16)
            image[:, y : y + size, x : x + size] = generator.uniform(0, 1, (3, 1, 1))
    return ArraySamples(images)


class Net:
    """Nodes and constants of a graph that is being written."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(7)
        self.nodes: list[Any] = []
        self.held: list[Any] = []

    def constant(self, name: str, values: Any) -> str:
        self.held.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, kind: str, inputs: str, output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs.split(), [output], name=f"n_{output}", **attributes))
        return output

    def conv(
        self, source: str, output: str, inputs: int, outputs: int, size: int = 3, stride: int = 1, **more: Any
    ) -> str:
        scale, bias = np.reshape(more.get("scale", 1.5), (-1, 1, 1, 1)), more.get("bias", 0.0)
        weights = self.generator.normal(size=(outputs, inputs, size, size)) * scale / np.sqrt(inputs * size * size)
        self.constant(f"{output}_w", weights.astype(np.float32))
        self.constant(f"{output}_b", (self.generator.normal(size=outputs) * 0.1 + bias).astype(np.float32))
        pads = [size // 2] * 4
        return self.node(
            "Conv", f"{source} {output}_w {output}_b", output, kernel_shape=[size] * 2, strides=[stride] * 2, pads=pads
        )

    def body(self) -> list[str]:
        """Eight convolutions of 16 channels; the three maps that heads read."""
        source, channels, maps = "x", 3, []
        for level in range(4):
            source = self.node("Relu", self.conv(source, f"c{level}", channels, 16, stride=2), f"r{level}")
            channels = 16
            source = self.node("Relu", self.conv(source, f"d{level}", 16, 16), f"s{level}")
            maps.append(source)
        return maps[1:]


def write_detector(path: Path, kind: str) -> Path:
    """``raw``: each head a convolution that gives boxes and logits of classes at once, the logits 30 times as wide;
    grids as they are, joined by Concat. ``scores``: boxes as logits, scores through a Sigmoid, joined by Concat for
    each head and then over the heads: ranges some ten times apart. ``decoded``: boxes in pixels beside scores.
    ``apart``: boxes and scores as two outputs.
    """
    net = Net()
    maps = net.body()
    net.constant("flat", np.array([0, 4, -1], np.int64))
    net.constant("flat_scores", np.array([0, CLASSES, -1], np.int64))
    net.constant("flat_all", np.array([0, 4 + CLASSES, -1], np.int64))
    net.constant("pixels", np.float32(16))
    rows, boxes, scores = [], [], []
    for level, source in enumerate(maps):
        if kind == "raw":
            scale = [0.3] * 4 + [9.0] * CLASSES
            grid = net.conv(source, f"grid{level}", 16, 4 + CLASSES, 1, scale=scale, bias=-np.array(scale) / 2)
            rows.append(net.node("Reshape", f"{grid} flat_all", f"row{level}"))
            continue
        box = net.conv(source, f"box{level}", 16, 4, 1, scale=6.0)
        logit = net.conv(source, f"logit{level}", 16, CLASSES, 1, scale=9.0, bias=-5.0)
        score = net.node("Sigmoid", logit, f"score{level}")
        if kind == "decoded":
            box = net.node("Mul", f"{box} pixels", f"pixels{level}")
        box = net.node("Reshape", f"{box} flat", f"boxes{level}")
        score = net.node("Reshape", f"{score} flat_scores", f"scores{level}")
        boxes.append(box)
        scores.append(score)
        if kind != "apart":
            rows.append(net.node("Concat", f"{box} {score}", f"row{level}", axis=1))
    if kind == "apart":
        outputs = {net.node("Concat", " ".join(boxes), "boxes", axis=2): 4}
        outputs[net.node("Concat", " ".join(scores), "scores", axis=2)] = CLASSES
    else:
        outputs = {net.node("Concat", " ".join(rows), "y", axis=2): 4 + CLASSES}
    exits = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size, "places"]) for name, size in outputs.items()
    ]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 64, 64])
    graph = helper.make_graph(net.nodes, kind, [entry], exits, net.held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path
