"""Every onnxruntime session is made here, so that all run with the same settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptq.errors import BadModel
from ptq.models.onnx_file import load


def session(model: Path | bytes, threads: int = 1, optimize: bool = True, save_to: Path | None = None) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Parameters
    ----------
    model: a path, or the bytes of a model without external data.
    threads: intra-op threads. They do not spin: spinning threads slow every other runtime in the process.
    optimize: False leaves the graph as written, so that every named tensor is really computed.
    save_to: where to write the graph that is really executed.

    Raises `BadModel` when onnxruntime refuses the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
    if isinstance(model, Path):
        load(model)  # one line for what is no model, and no external data outside its folder
    source = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        name = str(model) if isinstance(model, Path) else "model"
        reason = str(error).strip().splitlines()[0]
        raise BadModel(f"{name}: onnxruntime cannot run it ({reason})") from error
