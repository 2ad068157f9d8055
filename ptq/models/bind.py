"""bind: a model whose inputs are those that differ from sample to sample, the sample first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ptq.files import write_bytes
from ptq.models.graph import graphs
from ptq.models.onnx_file import load, serialized, signature


def bind(model: Path, out: Path, constants: Mapping[str, float], axes: Mapping[str, int]) -> dict[str, str]:
    """Write the ONNX `model` to `out` with some of its inputs changed; returns notes on what was.

    An input of `constants` is filled with that number, and is no input any more. `axes` is the dimension along which an
    input has its samples, where it is not the first: it is taken with that dimension first, and so is every output of
    its shape, the next state of a recurrent model, given.
    """
    from onnx import helper, numpy_helper

    proto, takes = load(model), signature(model)
    graph, inputs = proto.graph, {tensor.name: tensor for tensor in takes.inputs}
    kept = [value for value in graph.input if value.name not in constants]
    first, last = list[Any](), list[Any]()
    for name, number in constants.items():
        shape, axis = inputs[name].shape, axes.get(name, 0)
        filled = np.full([size or 1 for size in shape], number, inputs[name].dtype)
        varies = bool(shape) and shape[axis] is None and bool(kept)
        held = {f"{name}_one" if varies else name: filled}
        if varies:  # as many as there are of the other inputs
            ones = np.ones(len(shape), np.int64)
            held |= {
                f"{name}_first": np.zeros(1, np.int64),
                f"{name}_before": ones[:axis],
                f"{name}_after": ones[axis + 1 :],
            }
            first += [
                helper.make_node("Shape", [kept[0].name], [f"{name}_sizes"], f"{name}_sizes"),
                helper.make_node("Gather", [f"{name}_sizes", f"{name}_first"], [f"{name}_count"], f"{name}_count"),
                helper.make_node(
                    "Concat", [f"{name}_{part}" for part in ("before", "count", "after")], [f"{name}_shape"], axis=0
                ),
                helper.make_node("Expand", [f"{name}_one", f"{name}_shape"], [name], f"{name}_expand"),
            ]  # fmt: skip
        graph.initializer.extend(numpy_helper.from_array(values, each) for each, values in held.items())
    turned = {name: axis for name, axis in axes.items() if axis and name not in constants}
    for value in kept:
        if value.name in turned:
            inner = _renamed(graph, value.name)
            first.append(_turn(value.name, inner, _moved(value, turned[value.name]), inverse=True))
    for value, said in zip(graph.output, takes.outputs, strict=True):
        if alike := [each for name, each in axes.items() if each and inputs[name].shape == said.shape]:
            inner = _renamed(graph, value.name)
            last.append(_turn(inner, value.name, _moved(value, alike[0])))
    nodes = [*first, *graph.node, *last]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.extend(kept)
    write_bytes(out, serialized(proto, model))
    notes = {f"input {name}": f"{number:g} for every sample" for name, number in constants.items()}
    return notes | {f"input {name}": f"taken with dimension {axis} first" for name, axis in turned.items()}


def _renamed(graph: Any, name: str) -> str:
    """The name a tensor has from now on, wherever it is made or read."""
    inner = f"{name}_as_it_was"
    for each in graphs(graph):
        for node in each.node:
            node.input[:] = [inner if tensor == name else tensor for tensor in node.input]
            node.output[:] = [inner if tensor == name else tensor for tensor in node.output]
        for value in each.output if each is not graph else ():
            value.name = inner if value.name == name else value.name
    return inner


def _moved(value: Any, axis: int) -> list[int]:
    """The order of dimensions with `axis` first, which the shape of `value` has from now on."""
    dims = value.type.tensor_type.shape.dim
    order = [axis, *(each for each in range(len(dims)) if each != axis)]
    moved = [type(dims[each]).FromString(dims[each].SerializeToString()) for each in order]
    del dims[:]
    dims.extend(moved)
    return order


def _turn(source: str, out: str, order: list[int], inverse: bool = False) -> Any:
    from onnx import helper

    return helper.make_node("Transpose", [source], [out], out, perm=list(np.argsort(order)) if inverse else order)
