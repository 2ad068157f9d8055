"""Census of an ONNX artifact, counted in the graph onnxruntime really executes: the optimized model it saves.

What the file says is not what runs: onnxruntime fuses a Q/DQ pattern into an integer kernel only where it has one for
the element types at hand, and leaves the rest in float between quantizers, slower than the float model.
"""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path
from typing import Any

from ptq.backends.protocol import COUNTED, Census
from ptq.files import scratch
from ptq.models.graph import Graph, graphs
from ptq.models.onnx_file import load
from ptq.models.session import session

# Compute nodes by kind of `protocol.COUNTED`, whatever a fusion or a layout calls them.
_FLOAT = {
    **{kind: kind for kind in COUNTED},
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "FusedMatMul": "MatMul",
    "TransposeMatMul": "MatMul",
    "MatMulNBits": "MatMul",  # weights alone in few bits, computed in float
    "MatMulBnb4": "MatMul",
    "FusedGemm": "Gemm",
    "GemmFastGelu": "Gemm",
    "NhwcMaxPool": "MaxPool",
    "MultiHeadAttention": "Attention",
    "GroupQueryAttention": "Attention",
    "DecoderMaskedMultiHeadAttention": "Attention",
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
    with scratch() as folder:
        executed = folder / "executed.onnx"
        session(artifact, save_to=executed)
        return count(load(executed), load(artifact))


def count(model: Any, artifact: Any | None = None) -> Census:
    """The census of an optimized graph, an ``onnx.ModelProto``; nodes have the names `artifact` gives them."""
    graph = Graph(*graphs(model.graph))
    integers, counts = _integer_tensors(graph.nodes), _counts(model)
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    compute: list[Any] = []  # nodes that compute in float
    for node in graph.nodes:
        if node.op_type in _INTEGER:
            integer[_INTEGER[node.op_type]] += 1
        elif node.op_type in _FLOAT and any(each in integers for each in node.input[:1]):
            integer[_FLOAT[node.op_type]] += 1
        elif node.op_type in _FLOAT and node.output[0] not in counts:
            floating[_FLOAT[node.op_type]] += 1
            compute.append(node)
    return Census(
        integer=dict(sorted(integer.items())),
        floating=dict(sorted(floating.items())),
        stray=_stray(graph, compute),
        weight_bytes=_weight_bytes(graph),
        float_nodes=_names(compute, Graph(*graphs((artifact or model).graph))),
        simulated=_simulated(Graph(*graphs((artifact or model).graph))) if compute else None,
        cause=_cause(graph) if compute and integers else None,
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


def _names(executed: list[Any], artifact: Graph) -> tuple[str, ...]:
    """The artifact's names of executed nodes, which a fusion or a layout calls after the tensor they now make."""
    known = {node.name for node in artifact.nodes}
    names = []
    for node in executed:
        tensor = node.name.removesuffix("_nchwc") if node.name.endswith("_nchwc") else node.output[0]
        while (maker := artifact.producer.get(tensor)) and _FLOAT.get(maker.op_type) != _FLOAT[node.op_type]:
            if not maker.input:
                break
            tensor = maker.input[0]  # what was fused into the node comes after it
        written = maker.name or tensor if maker else node.name or node.output[0]
        names.append(node.name if node.name in known and node.name else written)
    return tuple(names)


def _counts(model: Any) -> set[str]:
    """Names of the tensors of whole numbers that are shapes and indices, not quantized values."""
    import onnx

    kinds = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
    known = [value for graph in graphs(model.graph) for value in (*graph.value_info, *graph.output)]
    return {value.name for value in known if value.type.tensor_type.elem_type in kinds}


def _stray(graph: Graph, compute: list[Any]) -> int:
    """How many Q and DQ nodes hand to, or take from, a node that computes in float."""
    floating = {id(node) for node in compute}
    stray: set[int] = set()
    seen: set[str] = set()
    upstream = [name for node in compute for name in node.input]
    while upstream:
        name = upstream.pop()
        if name in seen or (maker := graph.producer.get(name)) is None:
            continue
        seen.add(name)
        if maker.op_type in _DEQUANTIZE:
            stray.add(id(maker))
        elif maker.op_type in _PASS and id(maker) not in floating:
            upstream.extend(maker.input)
    for node in graph.nodes:
        if node.op_type in _QUANTIZE and node.input and _from_float(node.input[0], graph, floating):
            stray.add(id(node))
    return len(stray)


def _from_float(name: str, graph: Graph, floating: set[int]) -> bool:
    """Whether a tensor comes from a node that computes in float, directly or handed on."""
    while (maker := graph.producer.get(name)) is not None:
        if id(maker) in floating:
            return True
        if maker.op_type not in _PASS or not maker.input:
            return False
        name = maker.input[0]
    return False


def _weight_bytes(graph: Graph) -> dict[str, int]:
    import math

    import onnx

    total: Counter[str] = Counter()
    for tensor in graph.initializers.values():
        if len(tensor.dims) >= 2:
            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            bits = 4 if kind.name.endswith("int4") else 8 * kind.itemsize
            total[kind.name] += math.prod(tensor.dims) * bits // 8
    return dict(sorted(total.items()))


def _simulated(artifact: Graph) -> str | None:
    """Which integers of the artifact onnxruntime's CPU kernels do not multiply, None when there are none."""
    import onnx

    quantizers = [node for node in artifact.nodes if node.op_type in (*_QUANTIZE, *_DEQUANTIZE)]
    # a zero point has the type of the integers; a constant may be without one
    held = {name for node in quantizers for name in (*node.input[2:3], *node.input[:1])} & artifact.initializers.keys()
    kinds = {artifact.initializers[name].data_type for name in held}
    names = sorted(onnx.helper.tensor_dtype_to_np_dtype(kind).name for kind in kinds)
    few = [name for name in names if name.endswith(("int4", "int16"))]
    return f"in float: onnxruntime has no integer kernel for {' and '.join(few)} on this CPU" if few else None


def _cause(graph: Graph) -> str:
    """Why nodes run in float although the artifact has quantizers."""
    import onnx

    zero_points = [node.input[2] for node in graph.nodes if node.op_type == "QuantizeLinear" and len(node.input) > 2]
    types = {graph.initializers[name].data_type for name in zero_points if name in graph.initializers}
    if onnx.TensorProto.INT8 in types and platform.machine().lower() in ("x86_64", "amd64"):
        return "int8 activations, for which onnxruntime on x86 has few integer kernels: u8s8 has uint8 activations"
    return "these nodes were left out of quantization, or onnxruntime has no integer kernel for them"
