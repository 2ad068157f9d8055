"""observe: run a float ONNX model once with every activation exposed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptq.errors import BadData, BadModel
from ptq.samples import Float32, Samples

_BUDGET = 256 * 1024 * 1024  # bytes of exposed activations in one batch


def observe(model: Path, samples: Samples, batch: int = 32) -> Iterator[dict[str, Float32]]:
    """Batches of ``{tensor: float32 array of shape (n, ...)}``: the input and every float activation, as
    ``quantize_static`` would calibrate them.

    `batch` is the most images at a time; fewer when their activations would pass 256 MB, and as many as the model says
    when its batch dimension is fixed (a short last batch is filled up with its last image and cut again). Graph
    optimizations are off, as in onnxruntime's calibrators, so that every tensor of the file is there. An array is the
    runtime's own: use it before asking for the next.

    Some of onnxruntime's kernels add up in another order for one image than for several, so a tensor's last bits may
    depend on `batch`; with 1, every bit is that of onnxruntime's calibrators, which run one image at a time. With 1
    they also depend on the number of threads, and so of cores; with more they do not, as seen on ResNet8.

    Raises `BadModel` for a file that is no ONNX model with one input, `BadData` when the samples do not fit it.
    """
    import numpy as np

    session, name, exposed = exposed_session(model)
    fixed = session.get_inputs()[0].shape[0]
    fixed = fixed if isinstance(fixed, int) else None

    def run(images: Float32) -> dict[str, Float32]:
        size = fixed or len(images)
        short = size - len(images)
        full = np.concatenate([images, images[-1:].repeat(short, axis=0)]) if short else images
        try:
            outputs: list[Float32] = session.run(exposed, {name: full})
        except Exception as error:
            raise BadData(f"{model}: input of shape {full.shape} does not run ({_first_line(error)})") from error
        # a tensor without a batch dimension counts as one image's own
        kept = (each[: len(images)] if each.shape[:1] == (size,) else each[None] for each in outputs)
        return {name: images, **dict(zip(exposed, kept, strict=True))}

    size = fixed or batch
    if fixed is None:
        weight = sum(each.nbytes for each in run(next(iter(samples.batches(1)))).values())
        size = max(1, min(batch, _BUDGET // weight))
    for images in samples.batches(size):
        yield run(images)


def exposed_session(model: Path) -> tuple[Any, str, list[str]]:
    """A session over `model` with every float activation an output, its input's name, and the activations' names."""
    import onnx
    import onnxruntime

    try:
        graph_model = onnx.shape_inference.infer_shapes(onnx.load(model))
        exposed = _expose(graph_model)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
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
    return session, inputs[0].name, exposed


def _expose(model: onnx.ModelProto) -> list[str]:  # type: ignore[name-defined]  # noqa: F821
    """Make every float activation a graph output; their names, in the graph's order."""
    from onnx import TensorProto

    graph = model.graph
    known = {each.name: each for each in (*graph.value_info, *graph.output)}
    already = {each.name for each in graph.output}
    exposed = []
    for tensor in (tensor for node in graph.node for tensor in node.output):
        info = known.get(tensor)
        if info is None or info.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        exposed.append(tensor)
        if tensor not in already:
            graph.output.append(info)
    return exposed


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
