"""Edges: where in a model a dtype's bits are others: in its first and last layers, in sums, behind the last layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptq.calibration.layers import layers
from ptq.calibration.same_range import same_range
from ptq.models.graph import Graph, walk
from ptq.models.onnx_file import load
from ptq.quantization.calibration import Calibration
from ptq.quantization.dtype import Integer
from ptq.quantization.plan import Plan

_WHOLE = 8  # bits


def with_edges(model: Path, plan: Plan, method: str, calibration: Calibration) -> Plan:
    """The plan with the integers of the tensors whose bits are not the dtype's, and their ranges as `method` has them.

    With `plan.dtype.edge`: the weights and inputs of the first and last layers, and all behind the last. A layer is
    first when no other lies between an input of the model and it, last when none lies between it and an output.

    Where activations have less than 8 bits, so has what a layer hands to another. The inputs and outputs of the model,
    what no layer comes before or behind, and what is only added to something have 8.

    Source: Li et al. (2021), BRECQ, arXiv:2102.05426, section 4, as papers on few bits have it: 8 bits in the first and
    the last layer, sums rounded once they are taken, inputs and outputs of the model not at all.
    """
    proto = load(model)
    graph, learned = Graph(proto.graph), [layer.node for layer in layers(proto)]
    activations: dict[str, Integer] = {}
    weights: set[str] = set()
    if plan.dtype.activation.bits < _WHOLE:
        whole = Integer(_WHOLE, plan.dtype.activation.signed)
        activations |= dict.fromkeys(_unread(graph, learned), whole)
    if plan.dtype.edge is not None:
        inputs, weights = _edges(graph, learned)
        activations |= dict.fromkeys(inputs, plan.dtype.edge.activation)
    other = same_range(graph)
    activations |= {other[each]: integer for each, integer in activations.items() if each in other}
    activations |= {each: activations[source] for each, source in other.items() if source in activations}
    integers = {each: integer for each, integer in activations.items() if each in plan.ranges}
    if not integers and not weights:
        return plan
    wide = {integer: calibration.ranges(method, integer.quantizer) for integer in set(integers.values())}
    ranges = {**plan.ranges, **{each: wide[integer][each] for each, integer in integers.items()}}
    kinds = {} if plan.dtype.edge is None else dict.fromkeys(weights, plan.dtype.edge.weight)
    return replace(plan, ranges=ranges, integers={**integers, **kinds})


def _edges(graph: Graph, learned: list[Any]) -> tuple[set[str], set[str]]:
    """Activations and weights of the edges."""
    known = {id(node) for node in learned}
    first = [node for node in _entered(graph, known) if id(node) in known]
    last = [node for node in learned if not _followed(graph, node, known)]
    inputs = _before(graph, known) | _behind(graph, learned) | {str(node.input[0]) for node in last}
    return inputs, {str(node.input[1]) for node in (*first, *last)}


def _unread(graph: Graph, learned: list[Any]) -> set[str]:
    """Activations that no layer hands to another: before the first, behind the last, and only added to something."""
    summed = {
        str(tensor)
        for node in learned
        for tensor in node.output
        if graph.users(node) and all(user.op_type == "Add" for user in graph.users(node))
    }
    return summed | _before(graph, {id(node) for node in learned}) | _behind(graph, learned)


def _entered(graph: Graph, known: set[int]) -> list[Any]:
    """What reads the inputs of the model, up to the first layers."""
    starts = [reader for value in graph.inputs for reader in graph.readers.get(value.name, [])]
    return list(_reached(graph, starts, known))


def _before(graph: Graph, known: set[int]) -> set[str]:
    """The inputs of the model, and what is made of them before the first layers."""
    made = {str(tensor) for node in _entered(graph, known) if id(node) not in known for tensor in node.output}
    return {str(value.name) for value in graph.inputs} | made


def _behind(graph: Graph, learned: list[Any]) -> set[str]:
    """What the last layers give, and all that follows it."""
    known = {id(node) for node in learned}
    return {
        str(tensor)
        for last in learned
        if not _followed(graph, last, known)
        for node in (last, *_reached(graph, graph.users(last), known))
        for tensor in node.output
    }


def _followed(graph: Graph, node: Any, known: set[int]) -> bool:
    return any(id(each) in known for each in _reached(graph, graph.users(node), known))


def _reached(graph: Graph, starts: Iterable[Any], stops: set[int]) -> Iterator[Any]:
    """Nodes that are reached from `starts`, these included, not past `stops`, which are given too."""
    for start in starts:
        yield start
        if id(start) not in stops:
            yield from walk(start, lambda node: [] if id(node) in stops else graph.users(node))
