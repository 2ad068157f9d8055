"""origins: the names that the nodes of a prepared graph have in the file it was prepared from."""

from __future__ import annotations

from typing import Any

from ptq.models.graph import Graph


def origins(prepared: Graph, original: Graph) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """By a prepared node's name: its name in the original; and what was fused into it there, by name, in order.

    A fused node is known by its own name where the original has it, else by the node that makes the same tensor.
    """
    own = {node.name for node in original.nodes if node.name}
    kept = {*prepared.producer, *(each.name for each in prepared.inputs)}
    names, fused = dict[str, str](), dict[str, tuple[str, ...]]()
    for node in prepared.nodes:
        maker = original.producer.get(node.output[0])
        if maker is None:
            continue
        known = node.name or node.output[0]
        names[known] = known if known in own else _name(maker)
        fused[known] = tuple(
            _name(each) for each in _behind(original, maker, kept) if _name(each) != names[known]
        )  # fmt: skip
    return names, fused


def _behind(original: Graph, maker: Any, kept: set[str]) -> list[Any]:
    """A node and those before it up to tensors that were kept, in the graph's order."""
    found, waiting = [maker], [maker]
    while waiting:
        node = waiting.pop()
        for tensor in node.input:
            before = original.producer.get(tensor)
            if before is not None and tensor not in kept and before not in found and before.op_type != "Constant":
                found.append(before)
                waiting.append(before)
    return found[::-1]


def _name(node: Any) -> str:
    return str(node.name or node.output[0])
