"""expose: a float ONNX model whose activations are outputs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptq.data.batch import Batch, size_of
from ptq.data.samples import Float32
from ptq.errors import BadData, BadModel, one_line
from ptq.models.graph import Graph
from ptq.models.onnx_file import load, serialized
from ptq.models.session import feed, session, shapes

_PEAKS = "ptq/peaks"
_CARRY_NAN = {
    *("Add", "AveragePool", "BatchNormalization", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool"),
    *("Identity", "MatMul", "Mul", "Relu", "Reshape", "Sigmoid", "Softmax", "Sub", "Tanh", "Transpose"),
}
"""Operators that give a NaN for every one they read: it gets through to an output, which is exposed whole."""
_POOLED = (2, 3, 4)  # dimensions a sample that onnxruntime can pool over: channels, and one to three more

Place = tuple[str, "slice | None"]
"""The output a tensor comes out by, and its columns there."""


@dataclass(frozen=True, eq=False)
class Exposed:
    """A float model whose activations are outputs.

    `inputs` are the names of its inputs, `floats` those of float32, `tensors` are the activations in the graph's order,
    each with the output it comes out by and its columns there, None for the whole of it; `fixed` is the model's own
    batch size, None when it varies; `batched` says that the first dimension of every activation is known to be the
    inputs'; `inside` is what a sample's pooled feature maps take, in bytes. Called with a batch, it gives
    ``{tensor: float32 array of shape (n, ...)}``, the float inputs among them; the arrays are the runtime's own.
    """

    model: Path
    session: Any
    inputs: tuple[str, ...]
    floats: tuple[str, ...]
    tensors: Mapping[str, Place]
    fixed: int | None
    batched: bool
    inside: int

    def __call__(self, batch: Batch) -> dict[str, Float32]:
        given = feed(batch, self.inputs, self.model)
        n = size_of(given)
        size = self.fixed or n
        if n < size:
            full = {name: np.concatenate([each, each[-1:].repeat(size - n, axis=0)]) for name, each in given.items()}
        else:
            full = given
        names = list(dict.fromkeys(name for name, _ in self.tensors.values()))
        try:
            outputs = dict(zip(names, self.session.run(names, full), strict=True))
        except Exception as error:
            raise BadData(f"{self.model}: does not run with {shapes(full)} ({one_line(error)})") from error
        seen: dict[str, Float32] = {name: given[name] for name in self.floats}
        for tensor, (name, columns) in self.tensors.items():
            # a tensor without a batch dimension counts as one sample's own
            rows = outputs[name][:n] if outputs[name].shape[:1] == (size,) else outputs[name][None]
            seen[tensor] = rows if columns is None else rows[:, columns]
        return seen


def expose(model: Path, exact: bool = False, without: Collection[str] = (), peaks: bool = False) -> Exposed:
    """`model` with every float32 activation exposed but those in `without`.

    With `peaks`, feature maps inside the graph give only what their range follows from, shape (n, values): of every
    channel the largest value, the smallest unless a Relu gives it, and, where some operator may lose a NaN, the mean.
    These are found where a map lies, in the runtime's own layout, and the map is not moved. A map of unknown or varying
    size is given whole.

    `exact`, and a model with a batch size of its own, runs the graph as onnxruntime's calibrators do: optimizations
    off, threads as they come; with one sample at a time every bit is theirs. Otherwise the graph is optimized and runs
    on one thread, in a session that may be called from several at once: on ResNet8 in three fifths of the time, each
    value within some 1e-6 of its tensor's largest, and to the same bit for any batch; a few of onnxruntime's kernels,
    a ReduceMean over channels among them, add up differently in batches of another size.

    Raises `BadModel` for a file that is no ONNX model that onnxruntime runs.
    """
    import onnx

    try:
        proto = onnx.shape_inference.infer_shapes(load(model))
        inputs = Graph(proto.graph).inputs
        floats = [each.name for each in inputs if _is_float(each)]
        batched = _batched(proto.graph, inputs, without)
        tensors, inside = _expose(proto.graph, without, peaks)
        content = serialized(proto, model)
    except BadModel:
        raise
    except Exception as error:  # onnx and protobuf raise unrelated classes of their own
        raise BadModel(f"{model}: its activations cannot be exposed ({one_line(error)})") from error
    if not tensors:
        raise BadModel(f"{model}: has no float32 activation, so there is nothing to calibrate or to quantize")
    fixed = _fixed_batch(inputs)
    exact = exact or fixed is not None
    running = session(content, threads=0 if exact else 1, optimize=not exact, name=model)
    names = tuple(each.name for each in inputs)
    return Exposed(model, running, names, tuple(floats), tensors, fixed, batched, inside)


def _is_float(value: Any) -> bool:
    from onnx import TensorProto

    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _fixed_batch(inputs: list[Any]) -> int | None:
    dims = [each.type.tensor_type.shape.dim for each in inputs]
    sizes = {shape[0].dim_value for shape in dims if len(shape)}
    return max(sizes, default=0) or None


def _batched(graph: Any, inputs: list[Any], without: Collection[str]) -> bool:
    """Whether the first dimension of every float activation is the inputs', as far as shapes can be inferred."""
    seen = [each for each in (*graph.value_info, *graph.output) if _is_float(each) and each.name not in without]
    dims = [each.type.tensor_type.shape.dim for each in (*inputs, *seen)]
    firsts = {shape[0].dim_param if len(shape) else "" for shape in dims}
    return len(firsts) == 1 and "" not in firsts


def _expose(graph: Any, without: Collection[str], peaks: bool) -> tuple[dict[str, Place], int]:
    """Make activations graph outputs; by tensor, in the graph's order, where they come out, and the bytes of what a
    sample leaves inside."""
    from onnx import TensorProto, helper

    known = {each.name: each for each in (*graph.value_info, *graph.output)}
    already = {each.name for each in graph.output}
    exposed: dict[str, Place] = {}
    pooled: dict[int, list[str]] = {}  # by rank: Concat joins tensors of one rank
    columns: Counter[int] = Counter()
    inside = 0
    probed = not all(node.op_type in _CARRY_NAN for node in graph.node)
    for node in list(graph.node):
        for tensor in node.output:
            info = known.get(tensor)
            if info is None or not _is_float(info) or tensor in without:
                continue
            exposed[tensor] = tensor, None
            if tensor in already:
                continue
            shape = [each.dim_value for each in info.type.tensor_type.shape.dim[1:]]
            if peaks and len(shape) in _POOLED and all(shape):
                rank = len(shape)
                names = _pool(graph, tensor, shape[0], rank, node.op_type != "Relu", probed)
                end = columns[rank] + shape[0] * len(names)
                exposed[tensor] = f"{_PEAKS}{rank}", slice(columns[rank], end)
                columns[rank] = end
                pooled.setdefault(rank, []).extend(names)
                inside += 4 * math.prod(shape)
            else:
                graph.output.append(info)
    for rank, names in pooled.items():
        name = f"{_PEAKS}{rank}"
        graph.node.append(helper.make_node("Concat", names, [f"{name}/maps"], axis=1))
        graph.node.append(helper.make_node("Flatten", [f"{name}/maps"], [name]))
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return exposed, inside


def _pool(graph: Any, tensor: str, channels: int, rank: int, smallest: bool, mean: bool) -> list[str]:
    """Add nodes that give the largest value, the `mean` and the `smallest` value of every channel of a feature map of
    `rank` dimensions a sample; their outputs."""
    from onnx import helper, numpy_helper

    def add(kind: str, inputs: list[str], **attributes: object) -> str:
        name = f"{_PEAKS}/{len(graph.node)}"
        graph.node.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    outputs = [add("GlobalMaxPool", [tensor])]
    if mean:  # GlobalMaxPool passes over a NaN
        outputs.append(add("GlobalAveragePool", [tensor]))
    if smallest:
        # Neg would bring the map out of the layout that convolutions have; a depthwise convolution stays in it
        minus = f"{_PEAKS}/minus{channels}x{rank}"
        if minus not in {each.name for each in graph.initializer}:
            weights = np.full((channels, 1, *[1] * (rank - 1)), -1, np.float32)
            graph.initializer.append(numpy_helper.from_array(weights, minus))
        turned = add("Conv", [tensor, minus], group=channels, kernel_shape=[1] * (rank - 1))
        outputs.append(add("Neg", [add("GlobalMaxPool", [turned])]))
    return outputs
