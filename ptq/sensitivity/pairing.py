"""Pairing: which tensor and which node of a float model a QDQ file's tensors and nodes stand for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ptq.models.graph import Graph

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
QDQ = (QUANTIZE, DEQUANTIZE)
_CUTS = ("Relu", "Clip")
_SAME = {"GlobalAveragePool": "AveragePool"}
"""An operator that a correction writes for another."""


@dataclass(frozen=True, eq=False)
class Pairing:
    """A float graph and the graph of a QDQ file made from it.

    Tensors that only quantizers and dequantizers lie between are one tensor of the float model: the one whose name one
    of them has.
    """

    floats: Graph
    quantized: Graph

    @cached_property
    def names(self) -> dict[str, str]:
        """By tensor of the QDQ file, the float tensor it stands for; a tensor without one is left out."""
        links: dict[str, list[str]] = {}
        for node in self.quantized.nodes:
            if node.op_type in QDQ:
                links.setdefault(node.input[0], []).append(node.output[0])
                links.setdefault(node.output[0], []).append(node.input[0])
        known = {*self.floats.producer, *self.floats.initializers, *(each.name for each in self.floats.inputs)}
        found: dict[str, str] = {}
        tensors = dict.fromkeys([*(each.name for each in self.quantized.inputs), *self.quantized.initializers,
                                 *self.quantized.producer])  # fmt: skip
        for tensor in tensors:
            if tensor in found:
                continue
            group = _connected(tensor, links)
            for name in sorted(group & known):
                found |= dict.fromkeys(group, name)
                break
        return found

    @cached_property
    def constants(self) -> set[str]:
        """Tensors of the QDQ file that no input reaches: weights, and what dequantizes them."""
        found = set(self.quantized.constants)
        for node in self.quantized.nodes:
            if node.input and all(not each or each in found for each in node.input):
                found.update(node.output)
        return found

    @cached_property
    def compute(self) -> list[Any]:
        """The nodes of the QDQ file that compute activations."""
        return [
            node for node in self.quantized.nodes if node.op_type not in QDQ and node.output[0] not in self.constants
        ]

    def float_node(self, node: Any) -> Any | None:
        """The float node that a compute node stands for; None when there is none.

        Its output may be another tensor: a Relu is left out of a QDQ file where the quantizer cuts as well.
        """
        by_name = self._by_name.get(node.name)
        if by_name is not None and by_name.op_type in (node.op_type, _SAME.get(node.op_type)):
            return by_name
        maker = self.floats.producer.get(self.names.get(node.output[0], ""))
        if maker is not None and maker.op_type != node.op_type and maker.op_type in _CUTS:
            maker = self.floats.producer.get(maker.input[0])
        return maker if maker is not None and maker.op_type == node.op_type else None

    def quantizer(self, tensor: str) -> tuple[Any, Any] | None:
        """The quantizer that reads a tensor of the QDQ file and the dequantizer behind it; None where it is float."""
        for user in self.quantized.readers.get(tensor, []):
            if user.op_type == QUANTIZE and user.input[0] == tensor:
                for after in self.quantized.readers.get(user.output[0], []):
                    if after.op_type == DEQUANTIZE:
                        return user, after
        return None

    def raw(self, tensor: str) -> str:
        """What a tensor of the QDQ file was before quantizers and dequantizers."""
        while (maker := self.quantized.producer.get(tensor)) is not None and maker.op_type in QDQ:
            tensor = maker.input[0]
        return tensor

    @property
    def share(self) -> float:
        """Share of the compute nodes whose output stands for a tensor of the float model, 0..1."""
        return sum(node.output[0] in self.names for node in self.compute) / max(len(self.compute), 1)

    @cached_property
    def _by_name(self) -> dict[str, Any]:
        return {node.name: node for node in self.floats.nodes if node.name}


def _connected(tensor: str, links: dict[str, list[str]]) -> set[str]:
    found, waiting = {tensor}, [tensor]
    while waiting:
        fresh = set(links.get(waiting.pop(), ())) - found
        found |= fresh
        waiting += fresh
    return found
