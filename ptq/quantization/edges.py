"""Edges: the first and the last layers of a model, and the tensors that keep more bits with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptq.calibration.layers import layers
from ptq.calibration.same_range import same_range
from ptq.models.graph import Graph, walk
from ptq.models.onnx_file import load
from ptq.quantization.calibration import Calibration
from ptq.quantization.plan import Plan


def with_edges(model: Path, plan: Plan, method: str, calibration: Calibration) -> Plan:
    """The plan with `plan.dtype.edge` for the weights and inputs of the first and last layers and all behind the last.

    The ranges of these activations are those `method` chooses for that many bits. A layer is first when no other lies
    between an input of the model and it, last when none lies between it and an output.

    Source: Li et al. (2021), BRECQ, arXiv:2102.05426, section 4, as papers on few bits have it since.
    """
    edge = plan.dtype.edge
    if edge is None:
        return plan
    graph = Graph((proto := load(model)).graph)
    activations, weights = _edges(graph, [layer.node for layer in layers(proto)])
    wide = calibration.ranges(method, edge.quantizer)
    other = same_range(graph)
    activations = {other.get(each, each) for each in activations}
    activations |= {each for each, source in other.items() if source in activations}
    integers = {each: edge.activation for each in activations if each in plan.ranges}
    ranges = {**plan.ranges, **{each: wide[each] for each in integers}}
    return replace(plan, ranges=ranges, integers={**integers, **dict.fromkeys(weights, edge.weight)})


def _edges(graph: Graph, learned: list[Any]) -> tuple[set[str], set[str]]:
    """Activations and weights of the edges."""
    known = {id(node) for node in learned}
    first = {id(each) for value in graph.inputs for each in _reached(graph, graph.readers.get(value.name, []), known)}
    behind: set[str] = set()
    last = []
    for node in learned:
        after = list(_reached(graph, graph.users(node), known))
        if not any(id(each) in known for each in after):
            last.append(node)
            behind.update(tensor for each in (node, *after) for tensor in each.output)
    before = {value.name for value in graph.inputs}
    before |= {
        tensor
        for value in graph.inputs
        for each in _reached(graph, graph.readers.get(value.name, []), known)
        if id(each) not in known
        for tensor in each.output
    }
    edges = [node for node in learned if id(node) in first] + last
    return before | behind | {node.input[0] for node in last}, {node.input[1] for node in edges}


def _reached(graph: Graph, starts: list[Any], stops: set[int]) -> Iterator[Any]:
    """Nodes that are reached from `starts`, these included, not past `stops`, which are given too."""
    for start in starts:
        yield start
        if id(start) not in stops:
            yield from walk(start, lambda node: [] if id(node) in stops else graph.users(node))
