"""correct: a float ONNX model made ready for its own quantization, with calibration samples and without labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.calibration.layers import layers
from ptq.files import write_bytes
from ptq.models.graph import Graph, attributes
from ptq.models.onnx_file import load, serialized
from ptq.quantization import weights
from ptq.quantization.calibration import Calibration
from ptq.quantization.gptq import bias_shift, fit_weights
from ptq.quantization.plan import Plan, WeightGrid

Bounds = Callable[[npt.NDArray[np.float32], int | None], tuple[weights.Doubles, weights.Doubles]]


def correct(
    model: Path, out: Path, plan: Plan, calibration: Calibration, bounds: Bounds = weights.ranges
) -> tuple[Plan, str]:
    """A `ptq.quantization.plan.Correct` by GPTQ: weights rounded on the moments of their inputs, biases shifted, and
    pooling over the whole map as GlobalAveragePool. A layer that has no moments keeps its weights. `bounds` gives the
    (low, high) of weights along an axis.

    Tensor names, and so activation ranges, stay as they were. A GlobalAveragePool gets an output scale
    of its own, where onnxruntime gives an AveragePool that of its input, several times too coarse for a mean.
    """
    from onnx import numpy_helper

    proto, seen = load(model), calibration.moments()
    pool_globally(proto)
    constants = Graph(proto.graph).initializers
    grids: dict[str, WeightGrid] = {}
    for layer in list(layers(proto)):
        if layer.node.name in plan.exclude or layer.output not in seen:
            continue
        name, found = layer.node.input[1], seen[layer.output]
        axis = layer.axis if plan.per_channel else None
        low, high = bounds(layer.weights, axis)
        quantizer = plan.weight(name).weight_quantizer
        rounded, scale, zero_point = fit_weights(layer.rows, quantizer, low, high, found, centred=layer.has_bias)
        constants[name].CopyFrom(numpy_helper.from_array(layer.shaped(rounded), name))
        if layer.has_bias:
            set_bias(proto, layer.node, bias_shift(layer.rows, rounded, found), shift=True)
        grids[name] = WeightGrid(plan.weight(name), scale, zero_point, axis)
    write_bytes(out, serialized(proto, model))
    return replace(plan, grids=grids), "weights rounded and biases shifted on the calibration samples"


def pool_globally(model: Any) -> int:
    """Turn every AveragePool over a whole map, without padding, into GlobalAveragePool; how many there were."""
    import onnx

    shapes = {}
    inferred = onnx.shape_inference.infer_shapes(model)
    for info in (*inferred.graph.value_info, *inferred.graph.input):
        shapes[info.name] = [each.dim_value for each in info.type.tensor_type.shape.dim]
    turned = 0
    for node in model.graph.node:
        if node.op_type != "AveragePool":
            continue
        given = attributes(node)
        if list(given["kernel_shape"]) == shapes.get(node.input[0], [])[2:] and not any(given.get("pads", [])):
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
            turned += 1
    return turned


def set_bias(
    model: Any, node: Any, values: npt.NDArray[np.float32], shift: bool = False
) -> npt.NDArray[np.float32] | None:
    """Give the node a bias of its own, as another node may read the same one: `values`, or its own moved by them.

    None, and nothing is done, where it is computed at run time.
    """
    from onnx import numpy_helper

    old = node.input[2] if len(node.input) > 2 else ""
    held = Graph(model.graph).initializers
    if old and old not in held:
        return None
    beta = attributes(node).get("beta", 1.0)
    bias = numpy_helper.to_array(held[old]) if old and shift else np.zeros(values.shape, np.float32)
    name = f"{node.output[0]}_corrected_bias"
    moved: npt.NDArray[np.float32] = (bias + values / beta).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(moved, name))
    del node.input[2:]
    node.input.append(name)
    return moved
