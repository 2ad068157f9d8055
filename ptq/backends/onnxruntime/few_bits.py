"""Few bits: what an ONNX file of 4 or 16 bits needs beside what quantize_static does."""

from __future__ import annotations

from typing import Any

from ptq.models.graph import Graph, attributes, graphs, subgraphs
from ptq.quantization.plan import Plan

OPSET = 21
"""The first ONNX operator set whose QuantizeLinear knows integers of 4 and 16 bits; before it they are onnxruntime's
own, which no other runtime reads."""


def needs_modern(plan: Plan) -> bool:
    """Whether a plan has integers that ONNX's quantizers know from `OPSET` on only."""
    used = {
        plan.dtype.activation,
        plan.dtype.weight,
        *plan.integers.values(),
        *(g.integer for g in plan.grids.values()),
    }
    return any(integer.bits not in (7, 8) for integer in used)  # seven bits are held in int8


def modern(model: Any) -> Any:
    """An `onnx.ModelProto` in `OPSET`; as it is where onnx cannot convert it, and where it is newer."""
    import onnx

    version = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), OPSET)
    if version >= OPSET:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, OPSET)
    except Exception:  # onnx raises classes of its own; onnxruntime's own quantizers do as well
        return model
    converted.ir_version = max(converted.ir_version, 10)
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


def stand_up(model: Any) -> set[str]:
    """Transpose the constant weights of every Gemm that reads them as they are; the names of these.

    onnxruntime turns a Gemm of dequantized weights into MatMulNBits, whose default rounds activations to 8 bits of its
    own: ResNet8 u16s8 lost 4 dB of 41. It leaves a transposed one alone.
    """
    from onnx import helper, numpy_helper

    graph = Graph(model.graph)
    turned = set()
    for node in graph.nodes:
        weights = graph.initializers.get(node.input[1]) if node.op_type == "Gemm" else None
        if weights is None or len(graph.readers[weights.name]) > 1 or attributes(node).get("transB"):
            continue
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights).T.copy(), weights.name))
        kept = [each for each in node.attribute if each.name != "transB"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("transB", 1)])
        turned.add(weights.name)
    return turned


def compact(model: Any) -> None:
    """Leave out what a small file should not carry and nobody reads: shapes that are inferred anyway, names of
    quantizers, operator sets that are not used, zero points of constants that are zero.

    Every name a user may ask for stays: of inputs and outputs, of nodes that compute and of their tensors.
    """
    del model.graph.value_info[:]
    used = {node.domain for node in model.graph.node} | {""}
    kept = [each for each in model.opset_import if each.domain in used or model.functions]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    _drop_zeros(model)
    short: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
            short |= {each: f"{node.op_type[0]}{len(short)}" for each in node.output}
    taken = {each.name for each in (*model.graph.input, *model.graph.output, *model.graph.initializer)}
    taken |= {each for node in model.graph.node for each in node.output}
    short = {name: new for name, new in short.items() if name not in {o.name for o in model.graph.output}}
    if taken & set(short.values()) or any(list(subgraphs(node)) for node in model.graph.node):
        return
    for node in model.graph.node:
        node.input[:] = [short.get(each, each) for each in node.input]
        node.output[:] = [short.get(each, each) for each in node.output]


def _drop_zeros(model: Any) -> None:
    """Weights and biases without zero points where these are zero, which is what ONNX takes one that is absent for:
    4 of the 12 bytes that a channel has beside its weights."""
    from onnx import numpy_helper

    held, gone = {each.name: each for each in model.graph.initializer}, set()
    for node in model.graph.node:
        constant = node.op_type == "DequantizeLinear" and node.input[0] in held and len(node.input) > 2
        if constant and node.input[2] in held and not numpy_helper.to_array(held[node.input[2]]).any():
            gone.add(node.input[2])
            del node.input[2:]
    gone -= {each for graph in graphs(model.graph) for node in graph.node for each in node.input}
    kept = [each for each in model.graph.initializer if each.name not in gone]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
