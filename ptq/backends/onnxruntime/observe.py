"""observe: run a float ONNX model once with its activations exposed."""

from __future__ import annotations

import os
from collections import deque
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


T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Exposed:
    """A float model whose activations are outputs.

    `entry` is the name of its input, `tensors` are the activations in the graph's order, each with the output it comes
    out by, `fixed` is the model's own batch size, None when it varies. Called with images, it gives ``{tensor: float32
    array of shape (n, ...)}``, the input among them; the arrays are the runtime's own.
    """

    model: Path
    session: Any
    entry: str
    tensors: Mapping[str, str]
    fixed: int | None

    def __call__(self, images: Float32) -> dict[str, Float32]:
        size = self.fixed or len(images)
        short = size - len(images)
        full = np.concatenate([images, images[-1:].repeat(short, axis=0)]) if short else images
        try:
            outputs: list[Float32] = self.session.run(list(self.tensors.values()), {self.entry: full})
        except Exception as error:
            raise BadData(f"{self.model}: input of shape {full.shape} does not run ({_first_line(error)})") from error
        # a tensor without a batch dimension counts as one image's own
        kept = (each[: len(images)] if each.shape[:1] == (size,) else each[None] for each in outputs)
        return {self.entry: images, **dict(zip(self.tensors, kept, strict=True))}


def expose(model: Path, exact: bool = False, without: Collection[str] = (), peaks: Collection[str] = ()) -> Exposed:
    """`model` with every float activation exposed but those in `without`; of a feature map in `peaks`, only the
    largest value of every channel, shape (n, channels, 1, ...): it is found where the map lies, which is not moved.

    `exact`, and a model with a batch size of its own, runs the graph as onnxruntime's calibrators do: optimizations
    off, threads as they come; with one image at a time every bit is theirs. Otherwise the graph is optimized and runs
    on one thread, in a session that may be called from several at once: on ResNet8 in three fifths of the time, each
    value within some 1e-6 of its tensor's largest, and to the same bit for any batch and any number of threads.

    Raises `BadModel` for a file that is no ONNX model with one input.
    """
    import onnx
    import onnxruntime

    try:
        graph_model = onnx.shape_inference.infer_shapes(onnx.load(model))
        tensors = _expose(graph_model, without, peaks)
        options = onnxruntime.SessionOptions()
        if exact or _fixed_batch(graph_model) is not None:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        else:
            options.intra_op_num_threads = 1
        options.log_severity_level = 3
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
    return Exposed(model, session, inputs[0].name, tensors, _fixed_batch(graph_model))


def observe(model: Path, samples: Samples, batch: int = BATCH) -> Iterator[dict[str, Float32]]:
    """Batches of ``{tensor: float32 array of shape (n, ...)}``: the input and every float activation.

    `batch` is the most images at a time; fewer when their activations would pass 256 MB. Batches run ahead on several
    threads and come in order; the values do not depend on `batch` or on the threads (`expose`). A model with a batch
    size of its own is run exactly and alone: a short last batch is filled up with its last image and cut again.

    Use an array before asking for the next. Raises `BadModel` for a file that is no ONNX model with one input,
    `BadData` when the samples do not fit it.
    """
    yield from each_batch(expose(model), samples, lambda seen: seen, batch)


def each_batch(
    exposed: Exposed, samples: Samples, use: Callable[[dict[str, Float32]], T], batch: int = BATCH
) -> Iterator[T]:
    """What `use` makes of every batch `observe` would yield, in order.

    `use` runs on the thread that ran the model, while the values are in its core's cache.
    """
    if exposed.fixed is not None:
        yield from (use(exposed(images)) for images in samples.batches(exposed.fixed))
        return
    weight = sum(each.nbytes for each in exposed(next(iter(samples.batches(1)))).values())
    at_once = max(1, min(_cores(), _MOST_AT_ONCE, _BUDGET // weight - 1))
    batches = samples.batches(max(1, min(batch, _BUDGET // (weight * (at_once + 1)))))
    with ThreadPoolExecutor(at_once) as pool:
        waiting: deque[Future[T]] = deque()
        for images in batches:
            waiting.append(pool.submit(lambda images: use(exposed(images)), images))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fixed_batch(model: Any) -> int | None:
    constants = {each.name for each in model.graph.initializer}
    shapes = [each.type.tensor_type.shape.dim for each in model.graph.input if each.name not in constants]
    return shapes[0][0].dim_value or None if shapes and len(shapes[0]) else None


def _expose(model: Any, without: Collection[str], peaks: Collection[str]) -> dict[str, str]:
    """Make activations graph outputs; by tensor, in the graph's order, the names of these outputs."""
    from onnx import TensorProto, helper

    graph = model.graph
    known = {each.name: each for each in (*graph.value_info, *graph.output)}
    already = {each.name for each in graph.output}
    exposed: dict[str, str] = {}
    for tensor in [tensor for node in graph.node for tensor in node.output]:
        info = known.get(tensor)
        if info is None or info.type.tensor_type.elem_type != TensorProto.FLOAT or tensor in without:
            continue
        exposed[tensor] = tensor
        if tensor in peaks and len(info.type.tensor_type.shape.dim) > 2:
            exposed[tensor] = f"{tensor}/peaks"
            graph.node.append(helper.make_node("GlobalMaxPool", [tensor], [exposed[tensor]], name=exposed[tensor]))
            graph.output.append(helper.make_tensor_value_info(exposed[tensor], TensorProto.FLOAT, None))
        elif tensor not in already:
            graph.output.append(info)
    return exposed


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
