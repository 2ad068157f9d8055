"""correct: a float ONNX model made ready for its own quantization, with calibration samples and without labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.backends.onnxruntime.grid import Grid, grid
from ptq.calibration.layers import layers
from ptq.calibration.patches import Moments
from ptq.files import write_bytes
from ptq.models.graph import Graph, attributes
from ptq.models.onnx_file import load, serialized
from ptq.quantization import weights
from ptq.quantization.dtype import Dtype
from ptq.quantization.gptq import bias_shift, round_weights


def correct(
    model: Path,
    out: Path,
    seen: Mapping[str, Moments],
    dtype: Dtype,
    per_channel: bool,
    exclude: Collection[str] = (),
) -> dict[str, Grid]:
    """Write `model` to `out` with weights on the grid of `dtype`, biases shifted, and pooling over the whole map
    as GlobalAveragePool; `seen` is what `moments` gave, `exclude` names nodes that stay in float. A layer that is not
    in `seen` keeps its weights.

    Returns the grid for ``extra_options["TensorQuantOverrides"]`` of ``quantize_static``, which then finds every weight
    exactly on it. Tensor names, and so activation ranges, stay as they were. A GlobalAveragePool gets an output scale
    of its own, where onnxruntime gives an AveragePool that of its input, several times too coarse for a mean.
    """
    from onnx import numpy_helper

    proto, quantizer = load(model), dtype.weight_quantizer
    pool_globally(proto)
    constants = Graph(proto.graph).initializers
    overrides: dict[str, Grid] = {}
    for layer in list(layers(proto)):
        if layer.node.name in exclude or layer.output not in seen:
            continue
        name, found = layer.node.input[1], seen[layer.output]
        axis = layer.axis if per_channel else None
        scale, zero_point = quantizer.grids(*weights.ranges(layer.weights, axis))
        rounded = round_weights(layer.rows, quantizer, scale, zero_point, found, centred=layer.has_bias)
        constants[name].CopyFrom(numpy_helper.from_array(layer.shaped(rounded), name))
        if layer.has_bias:
            _set_bias(proto, layer.node, bias_shift(layer.rows, rounded, found))
        overrides[name] = grid(dtype.weight, scale, zero_point, axis)
    write_bytes(out, serialized(proto, model))
    return overrides


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


def _set_bias(model: Any, node: Any, shift: npt.NDArray[np.float32]) -> None:
    """Give the node a bias of its own, moved by `shift`: another node may read the same one."""
    from onnx import numpy_helper

    old = node.input[2] if len(node.input) > 2 else ""
    held = Graph(model.graph).initializers
    if old and old not in held:
        return  # computed at run time
    beta = attributes(node).get("beta", 1.0)
    bias = numpy_helper.to_array(held[old]) if old else np.zeros(shift.shape, np.float32)
    name = f"{node.output[0]}_corrected_bias"
    model.graph.initializer.append(numpy_helper.from_array((bias + shift / beta).astype(np.float32), name))
    del node.input[2:]
    node.input.append(name)
