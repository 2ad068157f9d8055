"""Points: the activations of a float model that static quantization rounds, and whose grid each is rounded on."""

from __future__ import annotations

from ptq.models.graph import Graph
from ptq.quantization.plan import Plan

_CUTS = {"Relu", "Clip"}
_KEEPS = {"AveragePool", "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Resize"}
"""Operators whose output is rounded where their input is, and on its grid."""
_QUANTIZED = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Softmax"),
    *("GlobalAveragePool", "Concat", "Split", "Pad", "Where", "LayerNormalization"),
}
"""Operators whose inputs and outputs are rounded; a few more exist, of which no gradient is known here."""


def points(graph: Graph, plan: Plan) -> dict[str, str]:
    """By activation that is rounded, the activation whose grid it has: itself, or what it is the values of.

    These are the quantizers that onnxruntime's static quantization puts into the graph. A tensor that nothing but a
    Relu or a Clip reads is rounded behind it.
    """
    found: dict[str, str] = {}
    for node in graph.nodes:
        if node.name in plan.exclude:
            continue
        if node.op_type in _KEEPS and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
        elif node.op_type in _QUANTIZED:
            for tensor in (*node.input, *node.output):
                if tensor in plan.ranges and not _cut(graph, tensor, plan):
                    found.setdefault(tensor, tensor)
    return found


def _cut(graph: Graph, tensor: str, plan: Plan) -> bool:
    readers = graph.readers.get(tensor, [])
    return (
        len(readers) == 1
        and readers[0].op_type in _CUTS
        and readers[0].input[0] == tensor
        and readers[0].name not in plan.exclude
        and tensor not in graph.outputs
    )
