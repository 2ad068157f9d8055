"""observe: run a float ONNX model once with its activations exposed."""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ptq.errors import BadData, BadModel
from ptq.samples import Float32, Samples

BATCH = 8
"""Images at a time: few enough that what a layer gives is still in a core's cache when it is counted."""

_BUDGET = 256 * 1024 * 1024  # bytes of exposed activations alive at a time
_MOST_AT_ONCE = 4  # batches


_PEAKS = "ptq/peaks"
_CARRY_NAN = {
    *("Add", "AveragePool", "BatchNormalization", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool"),
    *("Identity", "MatMul", "Mul", "Relu", "Reshape", "Sigmoid", "Softmax", "Sub", "Tanh", "Transpose"),
}
"""Operators that give a NaN for every one they read: it gets through to an output, which is exposed whole."""
_POOLED = (2, 3, 4)  # dimensions an image that onnxruntime can pool over: channels, and one to three more

T = TypeVar("T")
Place = tuple[str, "slice | None"]
"""The output a tensor comes out by, and its columns there."""


@dataclass(frozen=True, eq=False)
class Exposed:
    """A float model whose activations are outputs.

    `entry` is the name of its input, `tensors` are the activations in the graph's order, each with the output it comes
    out by and its columns there, None for the whole of it; `fixed` is the model's own batch size, None when it varies;
    `batched` says that the first dimension of every activation is known to be the input's; `inside` is what an image's
    pooled feature maps take, in bytes. Called with images, it gives ``{tensor: float32 array of shape (n, ...)}``, the
    input among them; the arrays are the runtime's own.
    """

    model: Path
    session: Any
    entry: str
    tensors: Mapping[str, Place]
    fixed: int | None
    batched: bool
    inside: int

    def __call__(self, images: Float32) -> dict[str, Float32]:
        size = self.fixed or len(images)
        short = size - len(images)
        full = np.concatenate([images, images[-1:].repeat(short, axis=0)]) if short else images
        names = list(dict.fromkeys(name for name, _ in self.tensors.values()))
        try:
            outputs = dict(zip(names, self.session.run(names, {self.entry: full}), strict=True))
        except Exception as error:
            raise BadData(f"{self.model}: input of shape {full.shape} does not run ({_first_line(error)})") from error
        seen = {self.entry: images}
        for tensor, (name, columns) in self.tensors.items():
            # a tensor without a batch dimension counts as one image's own
            rows = outputs[name][: len(images)] if outputs[name].shape[:1] == (size,) else outputs[name][None]
            seen[tensor] = rows if columns is None else rows[:, columns]
        return seen


def expose(model: Path, exact: bool = False, without: Collection[str] = (), peaks: bool = False) -> Exposed:
    """`model` with every float activation exposed but those in `without`.

    With `peaks`, feature maps inside the graph give only what their range follows from, shape (n, values): of every
    channel the largest value, the smallest unless a Relu gives it, and, where some operator may lose a NaN, the mean.
    These are found where a map lies, in the runtime's own layout, and the map is not moved.

    `exact`, and a model with a batch size of its own, runs the graph as onnxruntime's calibrators do: optimizations
    off, threads as they come; with one image at a time every bit is theirs. Otherwise the graph is optimized and runs
    on one thread, in a session that may be called from several at once: on ResNet8 in three fifths of the time, each
    value within some 1e-6 of its tensor's largest, and to the same bit for any batch; a few of onnxruntime's kernels,
    a ReduceMean over channels among them, add up differently in batches of another size.

    Raises `BadModel` for a file that is no ONNX model with one input.
    """
    import onnx
    import onnxruntime

    try:
        graph_model = onnx.shape_inference.infer_shapes(onnx.load(model))
        batched = _batched(graph_model, without)
        tensors, inside = _expose(graph_model, without, peaks)
        options = onnxruntime.SessionOptions()
        if exact or _fixed_batch(graph_model) is not None:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        else:
            options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what does not run is said by an exception
        # idle threads that spin would take the cores from the statistics
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            graph_model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnx and onnxruntime raise unrelated classes of their own
        raise BadModel(f"{model}: cannot be run with its activations exposed ({_first_line(error)})") from error
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise BadModel(f"{model}: has {len(inputs)} inputs, but calibration needs a model with 1")
    return Exposed(model, session, inputs[0].name, tensors, _fixed_batch(graph_model), batched, inside)


def observe(model: Path, samples: Samples, batch: int = BATCH) -> Iterator[dict[str, Float32]]:
    """Batches of ``{tensor: float32 array of shape (n, ...)}``: the input and every float activation.

    `batch` is the most images at a time; fewer when their activations would pass 256 MB. Batches run ahead on several
    threads and come in order; neither the batches nor the values depend on how many threads there are. A model with a
    batch size of its own is run exactly and alone: a short last batch is filled up with its last image and cut again.

    Use an array before asking for the next. Raises `BadModel` for a file that is no ONNX model with one input,
    `BadData` when the samples do not fit it.
    """
    yield from each_batch(expose(model), samples, lambda seen: seen, batch)


def each_batch(
    exposed: Exposed, samples: Samples, use: Callable[[dict[str, Float32]], T], batch: int = BATCH, spare: int = 0
) -> Iterator[T]:
    """What `use` makes of every batch `observe` would yield, in order.

    `use` runs on the thread that ran the model, while the values are in its core's cache. There are as many threads as
    cores, less those to `spare` for the caller's own work.
    """
    if exposed.fixed is not None:
        yield from (use(exposed(images)) for images in samples.batches(exposed.fixed))
        return
    first = next(iter(samples.batches(1)), None)
    if first is None:
        raise BadData(f"{exposed.model}: 0 calibration samples, but should be at least 1")
    weight = exposed.inside + sum(each.nbytes for each in exposed(first).values())
    at_once = max(1, min(_cores() - spare, _MOST_AT_ONCE, _BUDGET // weight - 1))
    queue = at_once if spare else at_once + 1  # a busy caller is waited for; an idle one keeps another ready
    size = max(1, min(batch, _BUDGET // (weight * (_MOST_AT_ONCE + 2))))  # whatever the number of cores
    with ThreadPoolExecutor(at_once) as pool:
        waiting: deque[Future[T]] = deque()
        for images in samples.batches(size):
            ready = [waiting.popleft().result()] if len(waiting) == queue else []
            waiting.append(pool.submit(lambda images: use(exposed(images)), images))
            while ready:
                yield ready.pop()  # not held here while it is used: no more than `queue` and one are alive
        while waiting:
            yield waiting.popleft().result()


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fixed_batch(model: Any) -> int | None:
    constants = {each.name for each in model.graph.initializer}
    shapes = [each.type.tensor_type.shape.dim for each in model.graph.input if each.name not in constants]
    return shapes[0][0].dim_value or None if shapes and len(shapes[0]) else None


def _batched(model: Any, without: Collection[str]) -> bool:
    """Whether the first dimension of every float activation is the input's, as far as shapes can be inferred."""
    from onnx import TensorProto

    graph = model.graph
    constants = {each.name for each in graph.initializer}
    firsts = [
        each.type.tensor_type.shape.dim[0].dim_param if len(each.type.tensor_type.shape.dim) else ""
        for each in (*(one for one in graph.input if one.name not in constants), *graph.value_info, *graph.output)
        if each.type.tensor_type.elem_type == TensorProto.FLOAT and each.name not in without
    ]
    return len(set(firsts)) == 1 and firsts[0] != ""


def _expose(model: Any, without: Collection[str], peaks: bool) -> tuple[dict[str, Place], int]:
    """Make activations graph outputs; by tensor, in the graph's order, where they come out, and the bytes of what an
    image leaves inside."""
    from onnx import TensorProto, helper

    graph = model.graph
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
            if info is None or info.type.tensor_type.elem_type != TensorProto.FLOAT or tensor in without:
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
    `rank` dimensions an image; their outputs."""
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
