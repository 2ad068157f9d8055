"""same_range: tensors that need no look of their own in calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CUTS = {"Relu", "Clip"}
_MOVES = {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}


def same_range(graph: Any) -> dict[str, str]:
    """By the name of a tensor of an `onnx.GraphProto`, the name of another whose range serves it.

    What nothing but a Relu or a Clip reads is served by what that makes of it: a quantizer need not hold what is cut
    off next (onnxruntime leaves the Relu out and has the quantizer cut). What only has another shape than its source
    is served by that.
    """
    readers: dict[str, list[Any]] = {each.name: [None] for each in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    other: dict[str, str] = {}
    for node in graph.node:
        match [readers.get(name, []) for name in node.output]:
            case [[reader]] if reader is not None and reader.op_type in _CUTS and reader.input[0] == node.output[0]:
                other[node.output[0]] = reader.output[0]
            case [_] if node.op_type in _MOVES and not _is_constant(node.input[0], graph):
                other[node.output[0]] = node.input[0]
    return {name: _last(name, other) for name in other}


def _is_constant(name: str, graph: Any) -> bool:
    return any(each.name == name for each in graph.initializer)


def _last(name: str, other: Mapping[str, str]) -> str:
    while name in other:
        name = other[name]
    return name
