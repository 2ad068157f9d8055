"""canonical: an ONNX model whose bytes come from what it computes, not from the process that wrote it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from ptq.models.graph import subgraphs

if TYPE_CHECKING:
    import onnx

# A name tf2onnx made: counted up, differently in each process.
_MADE_UP = re.compile(r".*__\d+(:\d+)?")


def canonical(model: onnx.ModelProto) -> bytes:
    """The bytes of `model`, which is changed: no name or order in it is left to chance; its varying batch is called N.

    But for what is inside a loop or a branch, see `order`.
    """
    fix_shapes(model)
    for value in (*model.graph.input, *model.graph.output):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_value <= 0:
                size.Clear()
                if axis == 0:
                    size.dim_param = "N"
    # Names of unknown dimensions are counted up too; preparation infers shapes anew.
    del model.graph.value_info[:]
    order(model.graph)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def fix_shapes(model: onnx.ModelProto) -> None:
    """Make a constant of every shape that a Reshape computes, where all of it but one dimension is known.

    TensorFlow folds such a chain (Shape, Gather, Slice, Concat) in most processes and leaves it in some: the same
    function in other bytes. Where it is folded here, `order` drops the chain.
    """
    import onnx

    known = {*(each.name for each in model.graph.initializer)}
    known |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    computed = [node for node in model.graph.node if node.op_type == "Reshape" and node.input[1] not in known]
    if not computed:
        return
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {each.name: each.type.tensor_type for each in (*inferred.value_info, *inferred.output)}
    for node in computed:
        tensor = shapes.get(node.output[0])
        sizes = [size.dim_value or -1 for size in tensor.shape.dim] if tensor and tensor.HasField("shape") else [-1, -1]
        if sizes.count(-1) > 1:
            continue
        name = f"{node.output[0]}__0"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(sizes, np.int64), name))
        node.input[1] = name


def order(graph: onnx.GraphProto) -> None:
    """Order nodes and weights, and name what tf2onnx named itself, by the structure of the graph alone.

    tf2onnx keeps its nodes in sets of objects, so by address: which of two equal constants stays, what numbers its
    own names get (``const_fold_opt__147``) and, as it sorts by name, the order of the nodes differ between processes.
    Depth first from the outputs is an order, and the first reader of a weight a name, that do not. What is inside a
    loop or a branch (a recurrent layer's, say) stays as it is.
    """
    fixed = {value.name for value in (*graph.input, *graph.output)} | set(_outer_names(graph))
    producer = {name: node for node in graph.node for name in node.output if name}
    ordered: list[onnx.NodeProto] = []
    done: set[int] = set()
    stack = [producer[value.name] for value in reversed(graph.output) if value.name in producer]
    while stack:
        sources = [producer[name] for name in _reads(stack[-1]) if name in producer]
        waiting = [node for node in sources if id(node) not in done]
        if waiting:
            stack.append(waiting[0])
        elif id(node := stack.pop()) not in done:
            done.add(id(node))
            ordered.append(node)
    readers = Counter(name for node in ordered for name in node.input)
    weights = {each.name: each for each in graph.initializer}
    names: dict[str, str] = {}
    taken = fixed | {name for node in graph.node for each in subgraphs(node) for name in _defined(each)}

    def named(name: str, kind: str) -> str:
        if name and name not in names:
            # A weight with several readers may have been several equal ones, each with a name of its own.
            own = name in fixed or not (_MADE_UP.fullmatch(name) or (name in weights and readers[name] > 1))
            made = next(each for number in count(len(names)) if (each := f"{kind}__{number}") not in taken)
            names[name] = name if own else made
            taken.add(names[name])
        return names.get(name, "")

    for node in ordered:
        node.input[:] = [named(each, "const" if each in weights else "value") for each in node.input]
        node.output[:] = [named(each, node.op_type) for each in node.output]
        node.name = named(node.name, node.op_type)
    kept = [weight for name, weight in weights.items() if name in names or name in fixed]
    position = {name: index for index, name in enumerate(names)}
    kept.sort(key=lambda weight: (position.get(weight.name, len(names)), weight.name))
    for weight in kept:
        weight.name = names.get(weight.name, weight.name)
    nodes = [deepcopy(node) for node in ordered], [deepcopy(weight) for weight in kept]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes[0])
    graph.initializer.extend(nodes[1])


def _reads(node: onnx.NodeProto) -> list[str]:
    """The tensors a node reads, those its subgraphs (If, Loop, Scan) take from outside included."""
    return [*node.input, *(name for each in subgraphs(node) for inner in each.node for name in _reads(inner))]


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name a graph and what is inside it makes."""
    yield from (each.name for each in (*graph.input, *graph.initializer))
    for node in graph.node:
        yield from node.output
        for each in subgraphs(node):
            yield from _defined(each)


def _outer_names(graph: onnx.GraphProto) -> Iterator[str]:
    """The names the subgraphs of `graph` read: they are not renamed."""
    for node in graph.node:
        for each in subgraphs(node):
            for inner in each.node:
                yield from _reads(inner)
