"""Dynamic quantization: matrix products whose activations are quantized at run time, by the range of each batch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.backends.onnxruntime.grid import quant_type
from ptq.backends.onnxruntime.quantize import heard
from ptq.calibration.layers import Layer, layers
from ptq.errors import BadModel, Unsupported, one_line
from ptq.files import scratch, write_bytes
from ptq.models.graph import Graph, attributes
from ptq.models.onnx_file import load, serialized
from ptq.quantization.plan import Plan, WeightGrid

_PRODUCTS = ("MatMul", "Gemm")


def by_default(model: Path, plan: Plan, out: Path, name: Path | None = None) -> Mapping[str, str]:
    """Write `model` to `out` as onnxruntime's own quantize_dynamic has it: with its defaults, but for the dtype of the
    weights and their granularity. Messages call it `name`.

    Raises `Unsupported` for a model without a matrix product of constant weights, and for activations other than uint8;
    `BadModel` with onnxruntime's own words when it refuses.
    """
    from onnxruntime.quantization import quantize_dynamic

    _check(model, plan, name or model)
    with scratch() as folder, heard() as said:
        own, made = folder / "model.onnx", folder / "made.onnx"
        shutil.copyfile(model, own)
        try:
            quantize_dynamic(
                str(own),
                str(made),
                per_channel=plan.per_channel,
                reduce_range=plan.dtype.weight.bits < 8,
                weight_type=quant_type(plan.dtype.weight),
                nodes_to_exclude=list(plan.exclude),
            )
        except Exception as error:
            raise BadModel(f"{name or model}: quantize_dynamic refuses it ({one_line(error)})") from error
        write_bytes(out, made.read_bytes())
    return {"onnxruntime warned": one_line("; ".join(said))} if said else {}


def on_grids(model: Path, plan: Plan, out: Path, name: Path | None = None) -> Mapping[str, str]:
    """Write `model`, whose weights lie on the grids of `plan`, to `out` with integer products on these grids.

    quantize_dynamic takes no grid. What it makes of a product is made here too: DynamicQuantizeLinear, MatMulInteger
    and a multiplication with both scales, which onnxruntime runs as one kernel. Tables that rows are looked up in
    become int8 with a scale a row. All else stays float, and is fused as in the float model, but for residual sums: see
    `_part_sums`. Raises as `by_default`.
    """
    from onnx import helper

    _check(model, plan, name or model)
    proto = load(model)
    products = {layer.output: layer for layer in layers(proto) if layer.node.input[1] in plan.grids}
    tables = _tables(proto.graph)
    constants: dict[str, npt.NDArray[Any]] = {}
    nodes: list[Any] = []
    quantized: set[str] = set()
    for node in proto.graph.node:
        if layer := products.get(node.output[0]):
            source = node.input[0]
            if source not in quantized:
                quantized.add(source)
                nodes.append(helper.make_node("DynamicQuantizeLinear", [source], _parts(source), f"{source}_quantize"))
            nodes += _product(layer, plan.grids[node.input[1]], constants)
        elif node.op_type == "Gather" and node.input[0] in tables and node.name not in plan.exclude:
            nodes += _lookup(node, tables[node.input[0]], constants)
        else:
            nodes.append(node)
    nodes = _part_sums(nodes, products.values(), proto.graph, constants)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    _replace_constants(proto.graph, constants)
    write_bytes(out, serialized(proto, model))
    return {"activations": f"quantized at run time, by the range of each batch, for {len(products)} matrix products"}


def _check(model: Path, plan: Plan, name: Path) -> None:
    """Raise `Unsupported` where there is nothing to quantize dynamically, or not in these integers."""
    if str(plan.dtype.activation) != "u8":
        raise Unsupported("at run time onnxruntime quantizes activations to uint8 alone (DynamicQuantizeLinear)")
    graph = Graph(load(model).graph)
    if not any(node.op_type in _PRODUCTS and node.input[1] in graph.constants for node in graph.nodes):
        raise Unsupported(
            f"{name.name}: no MatMul or Gemm with constant weights, and no other layer gets faster with activations "
            "that are quantized at run time"
        )


def _parts(source: str) -> list[str]:
    """What DynamicQuantizeLinear makes of a tensor: integers, scale, zero point."""
    return [f"{source}_quantized", f"{source}_scale", f"{source}_zero_point"]


def _product(layer: Layer, grid: WeightGrid, constants: dict[str, npt.NDArray[Any]]) -> list[Any]:
    """The nodes of a layer: integers multiplied and scaled, and a Gemm's bias added."""
    from onnx import TensorProto, helper

    node, output, stored = layer.node, layer.output, np.dtype(grid.integer.numpy)
    weights = np.moveaxis(layer.weights, layer.axis, 1)  # (length, outputs), as MatMulInteger has it
    integers, scale, zero_point = _parts(node.input[0])
    own = [f"{output}_{part}" for part in ("weights", "weights_zero_point", "weights_scale")]
    constants[own[0]] = (np.rint(weights / grid.scale) + grid.zero_point).astype(stored)
    constants[own[1]] = np.asarray(grid.zero_point).astype(stored)
    constants[own[2]] = np.asarray(grid.scale, np.float32)
    total, real, both, product = (f"{output}_{part}" for part in ("sum", "real", "scales", "product"))
    bias = node.input[2] if len(node.input) > 2 else ""
    product = product if bias else output
    nodes = [
        helper.make_node("MatMulInteger", [integers, own[0], zero_point, own[1]], [total], node.name),
        helper.make_node("Cast", [total], [real], f"{node.name}_real", to=TensorProto.FLOAT),
        helper.make_node("Mul", [scale, own[2]], [both], f"{node.name}_scales"),
        helper.make_node("Mul", [real, both], [product], f"{node.name}_scaled"),
    ]
    if bias and (beta := attributes(node).get("beta", 1.0)) != 1.0:
        constants[f"{output}_beta"] = np.float32(beta).reshape(1)
        nodes.append(helper.make_node("Mul", [bias, f"{output}_beta"], [f"{output}_bias"], f"{node.name}_beta"))
        bias = f"{output}_bias"
    return [*nodes, helper.make_node("Add", [product, bias], [output], f"{node.name}_bias")] if bias else nodes


def _part_sums(
    nodes: list[Any], products: Iterable[Layer], graph: Any, constants: dict[str, npt.NDArray[Any]]
) -> list[Any]:
    """`nodes` with a Reshape to its own shape, which copies nothing, before every product that is added to another
    activation.

    onnxruntime makes such a sum and the LayerNormalization behind it one SkipLayerNormalization where it knows that
    both have one shape, and its CPU kernel takes three times as long as the two (MiniLM: 0.04 of the float model's
    time). It does not where a dimension is known at run time alone.
    """
    from onnx import helper

    known = Graph(graph)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.value_info, *graph.output)}
    parted: dict[str, Any] = {}
    for layer in products:
        rank, tensor = ranks.get(layer.output, 0), layer.output
        while len(readers := known.readers.get(tensor, [])) == 1 and readers[0].op_type == "Add":
            if not any(each in known.constants for each in readers[0].input):
                break
            tensor = readers[0].output[0]
        if rank < 2 or len(readers) != 1 or readers[0].op_type != "Add" or tensor in known.outputs:
            continue
        constants[f"{tensor}_shape"] = np.array([-1, *[0] * (rank - 2), layer.weights.shape[layer.axis]])
        parted[tensor] = helper.make_node("Reshape", [tensor, f"{tensor}_shape"], [f"{tensor}_same"], f"{tensor}_same")
        readers[0].input[:] = [f"{tensor}_same" if each == tensor else each for each in readers[0].input]
    made = [(node, parted.get(node.output[0])) for node in nodes]
    return [each for pair in made for each in pair if each is not None]


def _tables(graph: Any) -> dict[str, npt.NDArray[np.float32]]:
    """By name, the constants of two dimensions that nothing but a Gather of rows reads."""
    from onnx import TensorProto, numpy_helper

    known, found = Graph(graph), {}
    for name, tensor in known.initializers.items():
        lookups = [
            each.op_type == "Gather" and each.input[0] == name and not attributes(each).get("axis")
            for each in known.readers.get(name, [])
        ]
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and lookups and all(lookups):
            found[name] = numpy_helper.to_array(tensor)
    return found


def _lookup(node: Any, table: npt.NDArray[np.float32], constants: dict[str, npt.NDArray[Any]]) -> list[Any]:
    """The nodes of a lookup: int8 rows and their scales, cast and multiplied. Standard operators: any runtime has them.

    Source: Guan et al. (2019), Post-Training 4-bit Quantization on Embedding Tables, arXiv:1911.02079: a scale a row.
    """
    from onnx import TensorProto, helper

    name, output = node.input[0], node.output[0]
    rows, scales = f"{name}_rows", f"{name}_row_scales"
    largest = np.abs(table).max(axis=1, keepdims=True)
    constants[scales] = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    constants[rows] = np.rint(table / constants[scales]).astype(np.int8)
    whole, real, scale = (f"{output}_row_{part}" for part in ("integers", "real", "scale"))
    return [
        helper.make_node("Gather", [rows, node.input[1]], [whole], node.name),
        helper.make_node("Gather", [scales, node.input[1]], [scale], f"{node.name}_scale"),
        helper.make_node("Cast", [whole], [real], f"{node.name}_real", to=TensorProto.FLOAT),
        helper.make_node("Mul", [real, scale], [output], f"{node.name}_scaled"),
    ]


def _replace_constants(graph: Any, constants: Mapping[str, npt.NDArray[Any]]) -> None:
    """Add `constants`, and leave out those that are read no more."""
    from onnx import numpy_helper

    read = {*Graph(graph).readers, *(value.name for value in graph.output)}
    kept = [each for each in graph.initializer if each.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(np.array(a, order="C"), name) for name, a in constants.items())
