"""Census of an .ovz file, counted in the graph OpenVINO really executes: the compiled model's runtime graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ptq.backends.openvino.file import Opened
from ptq.backends.protocol import Census
from ptq.errors import one_line

# Executed layers by kind of `protocol.COUNTED`. A MatMul with constant weights runs as FullyConnected, as a Gemm does.
_LAYERS = {
    "Convolution": "Conv", "Deconvolution": "ConvTranspose", "FullyConnected": "Gemm", "MatMul": "MatMul",
    "MHA": "Attention", "ScaledDotProductAttention": "Attention", "ScaledDotProductAttentionWithKVCache": "Attention",
}  # fmt: skip
_SEVERAL = ("Eltwise", "Subgraph", "Pooling", "Reduce", "RNNSeq", "RNNCell")
"""Executed layers that the operations they were made from tell the kind of."""
_OPERATIONS = {
    "MatMul": "MatMul", "AvgPool": "AveragePool", "MaxPool": "MaxPool", "LSTMCell": "LSTM", "LSTMSequence": "LSTM",
    "GRUCell": "GRU", "GRUSequence": "GRU",
}  # fmt: skip
_OVER_THE_MAP = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
_INTEGER, _FLOAT = ("i8", "u8", "i4", "u4"), ("f32", "f16", "bf16")
_NUMPY = {"i8": "int8", "u8": "uint8", "i4": "int4", "u4": "uint4", "f32": "float32", "f16": "float16"}
_BITS = {"i4": 4, "u4": 4, "i8": 8, "u8": 8, "f16": 16}
_MOVES = ("Reorder", "Reshape", "Transpose", "Split", "StridedSlice", "Concatenation")
_CAUSE = (
    "these nodes were left out of quantization, or OpenVINO has no integer kernel for them: it wants int8 weights "
    "without zero point, and activations whose scale is not exactly 1"
)


def census(opened: Opened) -> Census:
    """What OpenVINO executes on this CPU. Nodes have the names the model gives them.

    An Add of a constant is part of the layer before it, which most often has it inside, and is not counted.
    """
    written = {each.get_friendly_name(): each for each in opened.model.get_ordered_ops()}
    executed = list(opened.compiled().get_runtime_model().get_ordered_ops())
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    left: list[str] = []
    in_float: set[str] = set()
    for node in executed:
        layer, precision = _said(node, "layerType"), _said(node, "runtimePrecision")
        if layer == "Const":
            weights.update(_weight_bytes(node))
        kinds = list(_kinds(node, layer, written))
        if kinds and precision in _INTEGER:
            integer.update(kinds)
        elif kinds and precision in _FLOAT:  # else it computes a shape
            floating.update(kinds)
            left.append(_name(node, written))
            in_float.add(node.get_friendly_name())
    stray = _stray(executed, in_float)
    quantized = sum(integer.values()) or stray or any(kind.endswith(("int8", "int4")) for kind in weights)
    cause = _CAUSE if left and quantized else None
    return Census(dict(integer), dict(floating), stray, dict(sorted(weights.items())), tuple(left), cause=cause)


def _said(node: Any, key: str) -> str:
    held = node.get_rt_info()
    if key not in held:
        return ""
    value = held[key]
    return str(value.astype(str) if hasattr(value, "astype") else value)


def _kinds(node: Any, layer: str, written: Mapping[str, Any]) -> Iterator[str]:
    """What an executed node counts as; a fused one may be several."""
    if layer in _LAYERS:
        yield _LAYERS[layer]
    elif layer in _SEVERAL:
        for name in _said(node, "originalLayersNames").split(","):
            if name in written and (kind := _kind(written[name])):
                yield kind


def _kind(operation: Any) -> str | None:
    name = operation.get_type_name()
    if name == "Add":
        constant = any(each.get_source_output().get_node().get_type_name() == "Constant" for each in operation.inputs())
        return None if constant else "Add"
    if name in _OVER_THE_MAP:
        return _OVER_THE_MAP[name] if _over_the_map(operation) else None
    return _OPERATIONS.get(name)


def _over_the_map(operation: Any) -> bool:
    """Whether a reduction of (N, C, ...) leaves (N, C, 1, ...) or (N, C): its axes may be computed, so shapes tell."""
    given, left = operation.get_input_partial_shape(0), operation.get_output_partial_shape(0)
    if given.rank.is_dynamic or left.rank.is_dynamic or len(given) < 4 or len(left) not in (2, len(given)):
        return False
    return given[1] == left[1] and all(each.is_static and each.get_length() == 1 for each in list(left)[2:])


def _name(node: Any, written: Mapping[str, Any]) -> str:
    """The model's name of an executed node: the first of those it was made from; OpenVINO takes a bias apart."""
    names = [*_said(node, "originalLayersNames").split(","), str(node.get_friendly_name())]
    first = next((name for name in names if name in written), names[0] or names[-1])
    return one_line(first.removesuffix("/DequantizationMultiply").removesuffix("/WithoutBiases"), 80)


def _weight_bytes(node: Any) -> dict[str, int]:
    """By element type; a bias of shape (1, C, 1, 1) is no weight."""
    shape, kind = node.get_output_partial_shape(0), _said(node, "outputPrecisions")
    sizes = [each.get_length() for each in shape] if shape.is_static else []
    if kind not in _NUMPY or len(sizes) < 2 or (sizes[0] == 1 and sum(size > 1 for size in sizes) < 2):
        return {}
    return {_NUMPY[kind]: math.prod(sizes) * _BITS.get(kind, 32) // 8}


def _stray(executed: list[Any], in_float: set[str]) -> int:
    """How many nodes that only quantize or dequantize hand to, or take from, a node that computes in float."""
    parents = {
        node.get_friendly_name(): [each.get_source_output().get_node() for each in node.inputs()] for node in executed
    }
    stray = set()
    for node in executed:
        name = node.get_friendly_name()
        for parent in _behind(node, parents):
            maker = parent.get_friendly_name()
            if name in in_float and _only_converts(parent):
                stray.add(maker)
            if maker in in_float and _only_converts(node):
                stray.add(name)
    return len(stray)


def _behind(node: Any, parents: Mapping[str, list[Any]]) -> Iterator[Any]:
    """What a node reads, through nodes that only move values."""
    waiting = list(parents[node.get_friendly_name()])
    while waiting:
        found = waiting.pop()
        if _said(found, "layerType") in _MOVES:
            waiting.extend(parents[found.get_friendly_name()])
        else:
            yield found


def _only_converts(node: Any) -> bool:
    layer = _said(node, "layerType")
    return layer == "FakeQuantize" or (layer == "Convert" and _said(node, "runtimePrecision") in _INTEGER)
