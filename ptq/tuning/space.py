"""The space of a search: which recipes a model is given, the fastest or the smallest first."""

from __future__ import annotations

from typing import Any

from ptq.diagnosis.gather import saturates
from ptq.models.graph import Graph, attributes

TIME, SIZE = "time", "size"
"""What is made small."""
Recipe = tuple[str, str]
"""(dtype, method); one scale a channel."""


def levels(model: Any, minimise: str) -> list[list[Recipe]]:
    """Lists of recipes for an `onnx.ModelProto`: those of a list are as fast, or as small, as one another, and the next
    list is asked where none of them will do.

    u8s8 has the fastest kernels; where these saturate, u8s7 has the same and is right, and u8s8 whose pairs of
    weights are kept within 16 bits nearly is. Many convolutions of one channel
    each (depthwise) add equalization. Where most layers are products of matrices, activations may be quantized at run
    time.
    """
    graph = Graph(model.graph)
    layers = [node for node in graph.nodes if len(node.input) > 1 and node.input[1] in graph.constants]
    convolutions = [node for node in layers if node.op_type == "Conv"]
    products = [node for node in layers if node.op_type in ("MatMul", "Gemm")]
    static = ["percentile", "mse", "mse_gptq"]
    if 4 * sum(attributes(node).get("group", 1) > 1 for node in convolutions) > len(convolutions):
        static.append("cle_mse_gptq")
    dynamic = ["dynamic_smooth_gptq", "dynamic"] if len(products) > len(convolutions) else []
    fast = "u8s7" if saturates() else "u8s8"
    found = [[(dtype, method) for method in (*dynamic, *static)] for dtype in (fast, "uint8")]
    if saturates():
        found[0].insert(found[0].index((fast, "percentile")) + 1, ("u8s8", "percentile_gptq_pairs"))
    if minimise == SIZE:
        small = [("u8s4", "mse_gptaq"), ("u8s4_edge8", "mse_gptaq"), ("u8s4", "mixed")]
        return [*([each] for each in small), *found]
    return found
