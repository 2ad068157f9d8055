"""Graph: an ONNX graph, walked from its tensors to what makes and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Graph:
    """One `onnx.GraphProto`, or several as if they were one; nodes stay in their order, which ONNX wants topological.

    `initializers`, `producer` and `readers` are by tensor name; a node that reads a tensor twice is there twice, and
    one that holds graphs (If, Loop) reads what these read. `inputs` leave out what is an initializer, `constants` are
    initializers and the outputs of Constant nodes.
    """

    def __init__(self, *protos: Any) -> None:
        self.nodes: list[Any] = [node for proto in protos for node in proto.node]
        self.initializers: dict[str, Any] = {each.name: each for proto in protos for each in proto.initializer}
        self.inputs = [value for proto in protos for value in proto.input if value.name not in self.initializers]
        self.outputs = {value.name for proto in protos for value in proto.output}
        self.producer: dict[str, Any] = {tensor: node for node in self.nodes for tensor in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for tensor in reads(node):
                self.readers.setdefault(tensor, []).append(node)
        made = [node.output[0] for node in self.nodes if node.op_type == "Constant"]
        self.constants = {*self.initializers, *made}

    def users(self, node: Any) -> list[Any]:
        """The nodes that read what `node` makes."""
        return [user for tensor in node.output for user in self.readers.get(tensor, [])]

    def parents(self, node: Any) -> list[Any]:
        """The nodes that make what `node` reads, without constants."""
        parents = [self.producer.get(tensor) for tensor in node.input]
        return [parent for parent in parents if parent is not None and parent.op_type != "Constant"]


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes as Python values."""
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs a node holds (If, Loop, Scan)."""
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)


def graphs(graph: Any) -> Iterator[Any]:
    """A graph and every graph inside its nodes."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def reads(node: Any) -> list[str]:
    """The tensors a node reads, and those the graphs it holds take from outside."""
    names = list(node.input)
    for graph in subgraphs(node):
        inside = Graph(graph)
        own = {*inside.producer, *inside.initializers, *(value.name for value in graph.input)}
        names += [name for name in dict.fromkeys([*inside.readers, *inside.outputs]) if name not in own]
    return names


def tensors(model: Any) -> Iterator[Any]:
    """Every constant of an `onnx.ModelProto`: initializers and attributes, sparse ones, in all graphs and functions."""
    everywhere = list(graphs(model.graph))
    nodes = [node for graph in everywhere for node in graph.node]
    for function in model.functions:
        inside = [graph for node in function.node for part in subgraphs(node) for graph in graphs(part)]
        everywhere += inside
        nodes += [*function.node, *(node for graph in inside for node in graph.node)]
    for graph in everywhere:
        yield from graph.initializer
        yield from (part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices))
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from ([attribute.t] if attribute.HasField("t") else []) + list(attribute.tensors)
        several = ([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []) + list(
            attribute.sparse_tensors
        )
        yield from (part for sparse in several for part in (sparse.values, sparse.indices))


def walk(start: Any, neighbours: Callable[[Any], Iterable[Any]]) -> Iterator[Any]:
    """Every node that is reached from `start`, without it."""
    found: set[int] = {id(start)}
    waiting = [start]
    while waiting:
        for node in neighbours(waiting.pop()):
            if id(node) not in found:
                found.add(id(node))
                waiting.append(node)
                yield node
