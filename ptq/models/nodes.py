"""Nodes: an ONNX graph run node by node, so that what is between two nodes can be another than the graph says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ptq.models.graph import Graph, reads
from ptq.models.session import session

Tensors = dict[str, npt.NDArray[Any]]


class Nodes:
    """The nodes of an `onnx.ModelProto`, each run alone by onnxruntime, on one thread, as it is written.

    `constants` are the initializers of its graph: one that is replaced is read by the nodes that run later. Messages
    call it `name`.
    """

    def __init__(self, model: Any, name: Path) -> None:
        from onnx import numpy_helper

        self.graph = Graph(model.graph)
        self.constants = {each: numpy_helper.to_array(held) for each, held in self.graph.initializers.items()}
        last = {tensor: index for index, node in enumerate(self.graph.nodes) for tensor in reads(node)}
        self._gone: list[list[str]] = [[] for _ in self.graph.nodes]
        for index, node in enumerate(self.graph.nodes):
            for tensor in node.output:
                if tensor not in self.graph.outputs:
                    self._gone[last.get(tensor, index)].append(tensor)
        self._model, self._name = model, name
        self._sessions: dict[int, Any] = {}

    def run(self, index: int, seen: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        """What the node of that `index` makes, by tensor; it reads `seen`, else the constants."""
        node = self.graph.nodes[index]
        given = {name: seen[name] if name in seen else self.constants[name] for name in reads(node) if name}
        if index not in self._sessions:
            self._sessions[index] = self._session(node, given)
        names = [name for name in node.output if name]
        return dict(zip(names, self._sessions[index].run(names, given), strict=True))

    def peak(self, given: Mapping[str, npt.NDArray[Any]]) -> int:
        """The most bytes of activations that are alive at a time when all nodes run on `given`."""
        seen, most = dict(given), 0
        for index in range(len(self.graph.nodes)):
            seen.update(self.run(index, seen))
            most = max(most, sum(each.nbytes for each in seen.values()))
            for name in self.gone(index):
                seen.pop(name, None)
        return most

    def gone(self, index: int) -> list[str]:
        """The activations that nothing reads after the node of that `index`; what it ran with is given back."""
        self._sessions.pop(index, None)  # every session keeps as much memory as it ever needed
        return self._gone[index]

    def _session(self, node: Any, given: Tensors) -> Any:
        from onnx import helper

        entries = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(each.dtype), [None] * each.ndim)
            for name, each in given.items()
        ]
        exits = [helper.make_empty_tensor_value_info(name) for name in node.output if name]  # onnxruntime infers them
        graph = helper.make_graph([node], "node", entries, exits)
        alone = helper.make_model(graph, opset_imports=self._model.opset_import, functions=self._model.functions)
        alone.ir_version = self._model.ir_version
        return session(alone.SerializeToString(), optimize=False, name=f"{self._name}: {node.name or node.op_type}")
