"""Census of an ONNX artifact, counted in the graph onnxruntime really executes: the optimized model it saves.

What the file says is not what runs: onnxruntime fuses a Q/DQ pattern into an integer kernel only where it has one for
the element types at hand, and leaves the rest in float between quantizers, slower than the float model.
"""

from __future__ import annotations

import platform
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptq.backends.onnxruntime.session import session
from ptq.backends.protocol import Census
from ptq.models.onnx_file import load

# Compute nodes by kind, whatever a fusion or a layout calls them: multiply-accumulate, Add and pooling.
_FLOAT = {
    "Conv": "Conv",
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "ConvTranspose": "ConvTranspose",
    "MatMul": "MatMul",
    "FusedMatMul": "MatMul",
    "MatMulNBits": "MatMul",  # weights alone in few bits, computed in float
    "Gemm": "Gemm",
    "FusedGemm": "Gemm",
    "Add": "Add",
    "AveragePool": "AveragePool",
    "GlobalAveragePool": "GlobalAveragePool",
    "MaxPool": "MaxPool",
    "GlobalMaxPool": "GlobalMaxPool",
    "NhwcMaxPool": "MaxPool",
    "Attention": "Attention",
    "MultiHeadAttention": "Attention",
    "LSTM": "LSTM",
    "GRU": "GRU",
}
_INTEGER = {
    "QLinearConv": "Conv",
    "ConvInteger": "Conv",
    "QLinearConvTranspose": "ConvTranspose",
    "QLinearMatMul": "MatMul",
    "MatMulInteger": "MatMul",
    "MatMulInteger16": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "QGemm": "Gemm",
    "QLinearAdd": "Add",
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QAttention": "Attention",
    "DynamicQuantizeLSTM": "LSTM",
}
_QUANTIZE = {"QuantizeLinear", "DynamicQuantizeLinear"}
_DEQUANTIZE = {"DequantizeLinear"}
# Nodes that hand on what they are given, in the element type they are given it.
_PASS = {
    "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split", "Concat", "Pad", "Gather",
    "ReorderInput", "ReorderOutput", "Relu", "Clip", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth",
    "MaxPool", "NhwcMaxPool", "GlobalMaxPool",
}  # fmt: skip


def census(artifact: Path) -> Census:
    """What onnxruntime executes for `artifact` on the CPU with its default optimizations.

    Kinds are those of `Census`; a MaxPool counts as integer when it is given integers. Weights are the constants of
    two or more dimensions, in the layout they are executed in (blocked layouts pad). Raises `BadModel` when
    onnxruntime refuses the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / "executed.onnx"
        session(artifact, save_to=executed)
        return count(load(executed), load(artifact))


def count(model: Any, artifact: Any | None = None) -> Census:
    """The census of an optimized graph, an ``onnx.ModelProto``; nodes have the names `artifact` gives them."""
    nodes = [node for graph in _graphs(model.graph) for node in graph.node]
    integers, counts = _integer_tensors(nodes), _counts(model)
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    compute: list[int] = []  # positions of nodes that compute in float
    for position, node in enumerate(nodes):
        if node.op_type in _INTEGER:
            integer[_INTEGER[node.op_type]] += 1
        elif node.op_type in _FLOAT and any(each in integers for each in node.input[:1]):
            integer[_FLOAT[node.op_type]] += 1
        elif node.op_type in _FLOAT and node.output[0] not in counts:
            floating[_FLOAT[node.op_type]] += 1
            compute.append(position)
    return Census(
        integer=dict(sorted(integer.items())),
        floating=dict(sorted(floating.items())),
        stray=_stray(nodes, set(compute)),
        weight_bytes=_weight_bytes(model),
        float_nodes=_names([nodes[each] for each in compute], artifact or model),
        cause=_cause(nodes, model) if compute and integers else None,
    )


def _integer_tensors(nodes: list[Any]) -> set[str]:
    """Names of the activations that are integers: made by a quantizer or an integer kernel, and handed on."""
    found: set[str] = set()
    for node in nodes:  # in topological order, as ONNX demands
        makes = node.op_type in _QUANTIZE or node.op_type.startswith("QLinear")
        makes = makes or (node.op_type == "QGemm" and len(node.input) > 8 and bool(node.input[8]))
        if makes or (node.op_type in _PASS and node.input and node.input[0] in found):
            found.update(node.output)
    return found


def _names(executed: list[Any], artifact: Any) -> tuple[str, ...]:
    """The artifact's names of executed nodes, which a fusion or a layout calls after the tensor they now make."""
    nodes = [node for graph in _graphs(artifact.graph) for node in graph.node]
    known = {node.name for node in nodes}
    makers = {name: node for node in nodes for name in node.output}
    names = []
    for node in executed:
        tensor = node.name.removesuffix("_nchwc") if node.name.endswith("_nchwc") else node.output[0]
        while (maker := makers.get(tensor)) and _FLOAT.get(maker.op_type) != _FLOAT[node.op_type] and maker.input:
            tensor = maker.input[0]  # what was fused into the node comes after it
        written = maker.name or tensor if maker else node.name or node.output[0]
        names.append(node.name if node.name in known and node.name else written)
    return tuple(names)


def _counts(model: Any) -> set[str]:
    """Names of the tensors of whole numbers that are shapes and indices, not quantized values."""
    import onnx

    kinds = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
    return {value.name for value in model.graph.value_info if value.type.tensor_type.elem_type in kinds}


def _stray(nodes: list[Any], compute: set[int]) -> int:
    """How many Q and DQ nodes hand to, or take from, a node that computes in float."""
    makers = {name: position for position, node in enumerate(nodes) for name in node.output}
    stray: set[int] = set()
    seen: set[str] = set()
    upstream = [name for position in compute for name in nodes[position].input]
    while upstream:
        name = upstream.pop()
        if name in seen or (maker := makers.get(name)) is None:
            continue
        seen.add(name)
        if nodes[maker].op_type in _DEQUANTIZE:
            stray.add(maker)
        elif nodes[maker].op_type in _PASS and maker not in compute:
            upstream.extend(nodes[maker].input)
    for position, node in enumerate(nodes):
        if node.op_type in _QUANTIZE and node.input and _from_float(node.input[0], nodes, makers, compute):
            stray.add(position)
    return len(stray)


def _from_float(name: str, nodes: list[Any], makers: dict[str, int], compute: set[int]) -> bool:
    """Whether a tensor comes from a node that computes in float, directly or handed on."""
    while (maker := makers.get(name)) is not None:
        if maker in compute:
            return True
        if nodes[maker].op_type not in _PASS or not nodes[maker].input:
            return False
        name = nodes[maker].input[0]
    return False


def _weight_bytes(model: Any) -> dict[str, int]:
    import math

    import onnx

    total: Counter[str] = Counter()
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            if len(tensor.dims) >= 2:
                kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                bits = 4 if kind.name.endswith("int4") else 8 * kind.itemsize
                total[kind.name] += math.prod(tensor.dims) * bits // 8
    return dict(sorted(total.items()))


def _cause(nodes: list[Any], model: Any) -> str:
    """Why nodes run in float although the artifact has quantizers."""
    import onnx

    types = {tensor.name: tensor.data_type for graph in _graphs(model.graph) for tensor in graph.initializer}
    signed = any(
        types.get(node.input[2]) == onnx.TensorProto.INT8
        for node in nodes
        if node.op_type == "QuantizeLinear" and len(node.input) > 2
    )
    if signed and platform.machine().lower() in ("x86_64", "amd64"):
        return "int8 activations, for which onnxruntime on x86 has few integer kernels: u8s8 has uint8 activations"
    return "these nodes were left out of quantization, or onnxruntime has no integer kernel for them"


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and the graphs inside its nodes (If, Loop)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(inner)
