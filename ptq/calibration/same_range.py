"""same_range: tensors that need no look of their own in calibration."""

from __future__ import annotations

from ptq.models.graph import Graph

_CUTS = {"Relu", "Clip"}
_MOVES = {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}


def same_range(graph: Graph) -> dict[str, str]:
    """By the name of a tensor, the name of another whose range serves it.

    What nothing but a Relu or a Clip reads is served by what that makes of it: a quantizer need not hold what is cut
    off next (onnxruntime leaves the Relu out and has the quantizer cut). What only has another shape than its source
    is served by that.
    """
    other: dict[str, str] = {}
    for node in graph.nodes:
        if len(node.output) != 1:
            continue
        name = node.output[0]
        readers = graph.readers.get(name, [])
        cut = len(readers) == 1 and readers[0].op_type in _CUTS and readers[0].input[0] == name
        if cut and name not in graph.outputs:
            other[name] = readers[0].output[0]
        elif node.op_type in _MOVES and node.input[0] not in graph.constants:
            other[name] = node.input[0]
    return {name: _last(name, other) for name in other}


def _last(name: str, other: dict[str, str]) -> str:
    while name in other:
        name = other[name]
    return name
