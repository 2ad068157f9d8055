"""correct: a float ONNX model made ready for its own quantization, with calibration images and without labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.backends.onnxruntime.observe import observe
from ptq.calibration import weights
from ptq.calibration.correction import bias_shift, round_weights
from ptq.calibration.patches import Moments, MomentsSoFar, Window
from ptq.quantizer import Quantizer
from ptq.samples import Samples

_PATCHES = 1 << 16  # patches a layer is judged by, over all images

Overrides = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, eq=False)
class Layer:
    """A Conv, Gemm or MatMul node with constant weights; `axis` is the weights' output dimension."""

    node: Any
    weights: npt.NDArray[np.float32]
    axis: int
    window: Window

    @property
    def has_bias(self) -> bool:
        return self.node.op_type in ("Conv", "Gemm")

    @property
    def rows(self) -> npt.NDArray[np.float32]:
        """Weights of shape (outputs, length)."""
        return weights.by_channel(self.weights, self.axis)


def moments(model: Path, samples: Samples, batch: int = 32) -> dict[str, Moments]:
    """Moments of the patches of every layer, by the layer's output tensor: one pass over the samples."""
    import onnx

    layers = list(_layers(onnx.load(model)))
    each = max(1, _PATCHES // len(samples))
    sums = {layer.node.output[0]: MomentsSoFar() for layer in layers}
    first = 0
    for seen in observe(model, samples, batch):
        for layer in layers:
            sums[layer.node.output[0]].add(layer.window.patches(seen[layer.node.input[0]], each, first))
        first += max(len(images) for images in seen.values() if images.ndim)
    return {name: so_far.finish() for name, so_far in sums.items()}


def correct(
    model: Path,
    out: Path,
    seen: Mapping[str, Moments],
    quantizer: Quantizer,
    per_channel: bool,
    exclude: Collection[str] = (),
) -> Overrides:
    """Write `model` to `out` with weights on the grid of `quantizer`, biases shifted, and pooling over the whole map
    as GlobalAveragePool; `seen` is what `moments` gave, `exclude` names nodes that stay in float.

    Returns the grid for ``extra_options["TensorQuantOverrides"]`` of ``quantize_static``, which then finds every weight
    exactly on it. Tensor names, and so activation ranges, stay as they were. A GlobalAveragePool gets an output scale
    of its own, where onnxruntime gives an AveragePool that of its input, several times too coarse for a mean.
    """
    import onnx
    from onnx import numpy_helper
    from onnxruntime.quantization import QuantType

    graph_model = onnx.load(model)
    pool_globally(graph_model)
    kind = getattr(QuantType, f"Q{'' if quantizer.signed else 'U'}Int{quantizer.bits}")
    overrides: Overrides = {}
    constants = {each.name: each for each in graph_model.graph.initializer}
    for layer in [each for each in _layers(graph_model) if each.node.name not in exclude]:
        axis = layer.axis if per_channel else None
        scale, zero_point = quantizer.grids(*weights.ranges(layer.weights, quantizer, axis))
        found = seen[layer.node.output[0]]
        rounded = round_weights(layer.rows, quantizer, scale, zero_point, found, centred=layer.has_bias)
        moved = np.moveaxis(rounded.reshape(np.moveaxis(layer.weights, layer.axis, 0).shape), 0, layer.axis)
        constants[layer.node.input[1]].CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(moved), layer.node.input[1])
        )
        if layer.has_bias:
            _set_bias(graph_model, layer.node, bias_shift(layer.rows, rounded, found))
        grid = [
            {"quant_type": kind, "scale": each, "zero_point": zero_dtype(quantizer)(zero)}
            for each, zero in zip(np.atleast_1d(scale), np.atleast_1d(zero_point), strict=True)
        ]
        if per_channel:
            grid[0]["axis"] = layer.axis
        overrides[layer.node.input[1]] = grid
    onnx.save(graph_model, out)
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
        attributes = _attributes(node)
        if list(attributes["kernel_shape"]) == shapes.get(node.input[0], [])[2:] and not any(
            attributes.get("pads", [])
        ):
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
            turned += 1
    return turned


def zero_dtype(quantizer: Quantizer) -> type[np.integer[Any]]:
    """numpy's type for a zero point of this quantizer."""
    signed, unsigned = (np.int8, np.uint8) if quantizer.bits <= 8 else (np.int16, np.uint16)
    return signed if quantizer.signed else unsigned


def _layers(model: Any) -> Iterator[Layer]:
    from onnx import TensorProto, numpy_helper

    constants = {each.name: each for each in model.graph.initializer if each.data_type == TensorProto.FLOAT}
    uses: dict[str, int] = {}
    for name in (name for node in model.graph.node for name in node.input):
        uses[name] = uses.get(name, 0) + 1
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or uses.get(node.input[1]) != 1:
            continue
        if node.input[1] not in constants or node.input[0] in constants:
            continue
        values, attributes = numpy_helper.to_array(constants[node.input[1]]), _attributes(node)
        if node.op_type == "Conv":
            window = _window(values.shape, attributes)
            if window is not None:
                yield Layer(node, values, 0, window)
        elif values.ndim == 2 and not attributes.get("transA") and attributes.get("alpha", 1.0) == 1.0:
            yield Layer(node, values, 0 if attributes.get("transB") else 1, Window())


def _window(shape: tuple[int, ...], attributes: dict[str, Any]) -> Window | None:
    kernel = tuple(shape[2:])
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None  # padding that depends on the input's size: the layer keeps its rounding
    ones, zeros = [1] * len(kernel), [0] * 2 * len(kernel)
    pads = attributes.get("pads", zeros)
    return Window(
        kernel,
        tuple(attributes.get("strides", ones)),
        tuple(attributes.get("dilations", ones)),
        tuple(pads[: len(kernel)]),
        tuple(pads[len(kernel) :]),
        attributes.get("group", 1),
    )


def _set_bias(model: Any, node: Any, shift: npt.NDArray[np.float32]) -> None:
    """Give the node a bias of its own, moved by `shift`: another node may read the same one."""
    from onnx import numpy_helper

    old = node.input[2] if len(node.input) > 2 else ""
    held = {each.name: each for each in model.graph.initializer}
    if old and old not in held:
        return  # computed at run time
    beta = _attributes(node).get("beta", 1.0)
    bias = numpy_helper.to_array(held[old]) if old else np.zeros(shift.shape, np.float32)
    name = f"{node.output[0]}_corrected_bias"
    model.graph.initializer.append(numpy_helper.from_array((bias + shift / beta).astype(np.float32), name))
    del node.input[2:]
    node.input.append(name)


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}
