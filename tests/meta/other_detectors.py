"""Detectors whose heads are laid out otherwise than YOLO11's: each a backbone of three maps and answers as exports have
them, which nothing in ptq was written for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from small_detectors import CLASSES, Net

Outputs = dict[str, list[Any]]


def decoupled(net: Net, maps: list[str]) -> Outputs:
    """As YOLOX: boxes, objectness and classes from layers of their own, joined a head, grids undecoded; transposed."""
    net.constant("flat", np.array([0, 5 + CLASSES, -1], np.int64))
    rows = []
    for level, source in enumerate(maps):
        boxes, classes = (
            net.node("Relu", net.conv(source, f"{each}{level}", 16, 16), f"r{each}{level}") for each in "ab"
        )
        box = net.conv(boxes, f"box{level}", 16, 4, 1, scale=4.0)
        there = net.node("Sigmoid", net.conv(boxes, f"there{level}", 16, 1, 1, scale=6.0, bias=-4.0), f"o{level}")
        score = net.node(
            "Sigmoid", net.conv(classes, f"class{level}", 16, CLASSES, 1, scale=6.0, bias=-4.0), f"k{level}"
        )
        joined = net.node("Concat", f"{box} {there} {score}", f"joined{level}", axis=1)
        rows.append(net.node("Reshape", f"{joined} flat", f"row{level}"))
    return {
        net.node("Transpose", net.node("Concat", " ".join(rows), "all", axis=2), "y", perm=[0, 2, 1]):
        ["n", "places", 5 + CLASSES]
    }  # fmt: skip


def anchored(net: Net, maps: list[str]) -> Outputs:
    """As YOLOv5: one layer a head, everything through one Sigmoid, then split, decoded by anchors and joined again."""
    width = 5 + CLASSES
    for name, values in (("shape", [0, 3, width, -1]), ("parts", [2, 2, 1 + CLASSES]), ("end", [0, -1, width])):
        net.constant(name, np.array(values, np.int64))
    rows = []
    for level, source in enumerate(maps):
        net.constant(f"stride{level}", np.float32(8 * 2**level))
        net.constant(f"anchor{level}", np.float32(40 * 2**level))
        head = net.node(
            "Reshape", f"{net.conv(source, f'head{level}', 16, 3 * width, 1, scale=2.0)} shape", f"v{level}"
        )
        share = net.node("Sigmoid", net.node("Transpose", head, f"t{level}", perm=[0, 1, 3, 2]), f"g{level}")
        names = [f"{part}{level}" for part in ("xy", "wh", "score")]
        net.nodes.append(helper.make_node("Split", [share, "parts"], names, name=f"n_split{level}", axis=3))
        center = net.node("Mul", f"xy{level} stride{level}", f"center{level}")
        area = net.node("Mul", f"wh{level} wh{level}", f"squared{level}")
        size = net.node("Mul", f"{area} anchor{level}", f"size{level}")
        joined = net.node("Concat", f"{center} {size} score{level}", f"joined{level}", axis=3)
        rows.append(net.node("Reshape", f"{joined} end", f"row{level}"))
    return {net.node("Concat", " ".join(rows), "y", axis=1): ["n", "places", width]}


def grids(net: Net, maps: list[str]) -> Outputs:
    """Raw grids as outputs of their own, channels last; logits are 30 times as wide as boxes, and nothing is joined."""
    found: Outputs = {}
    scale = np.array([0.3] * 4 + [9.0] * CLASSES)
    for level, source in enumerate(maps):
        grid = net.conv(source, f"head{level}", 16, 4 + CLASSES, 1, scale=scale, bias=-scale / 2)
        output = net.node("Transpose", grid, f"y{level}", perm=[0, 2, 3, 1])
        found[output] = ["n", f"h{level}", f"w{level}", 4 + CLASSES]
    return found


LAYOUTS: Mapping[str, Callable[[Net, list[str]], Outputs]] = {
    "decoupled": decoupled, "anchored": anchored, "grids": grids,
}  # fmt: skip


def write_other(path: Path, layout: str) -> Path:
    """The detector of one of `LAYOUTS`; input (n, 3, 64, 64), as `small_detectors.pictures` are."""
    net = Net()
    outputs = LAYOUTS[layout](net, net.body())
    exits = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 64, 64])
    graph = helper.make_graph(net.nodes, layout, [entry], exits, net.held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path
