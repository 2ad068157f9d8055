"""Every onnxruntime session is made here, so that all run with the same settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

from ptq.data.batch import Array, Batch, only
from ptq.errors import BadData, BadModel, one_line
from ptq.models.onnx_file import check_external, load, serialized

SECONDS = 600.0
"""The longest a batch may take of a model that can run for ever."""
_REPEATS = (b"Loop", b"Scan", b"Search", b"Sampling")
"""Parts of the names of operators that run a graph again and again; elsewhere in a file they do no harm."""


def session(
    model: Path | bytes,
    threads: int = 1,
    optimize: bool = True,
    basic: bool = False,
    save_to: Path | None = None,
    name: Path | str | None = None,
    profile: Path | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Parameters
    ----------
    model: a path, or the bytes of a model without external data.
    threads: intra-op threads. They do not spin: spinning threads slow every other runtime in the process.
    optimize: False leaves the graph as written, so that every named tensor is really computed.
    basic: optimize only as far as every node stays one that quantizers know.
    save_to: where to write the graph that is really executed; its weights beside it where the model's own are outside.
    name: what messages call the model, by default its path.
    profile: how the names of files begin that the time of every node is written to.

    The `run` of a model that can run for ever raises `TimeoutError` after `SECONDS`.
    Raises `BadModel` when onnxruntime refuses the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what does not run is said by an exception
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize or basic:
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_BASIC if optimize else level.ORT_DISABLE_ALL
    # one line for what is no model, and no external data outside its folder
    outside = check_external(model) if isinstance(model, Path) else []
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
        if outside:  # else it points at weights that are not beside it
            weights = f"{save_to.name}.weights"
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
    try:
        made = _made(model, options, bool(outside))
    except Exception as error:
        known = name or (model if isinstance(model, Path) else "model")
        raise BadModel(f"{known}: onnxruntime cannot run it ({one_line(error)})") from error
    content = model.read_bytes() if isinstance(model, Path) else model
    if any(kind in content for kind in _REPEATS):
        made.run = partial(_within, made.run)
    return made


def _made(model: Path | bytes, options: Any, outside: bool) -> Any:
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    try:
        # onnxruntime wants a path in UTF-8, whatever the locale
        source = os.fsencode(model).decode() if isinstance(model, Path) else model
        return onnxruntime.InferenceSession(source, options, providers)
    except Exception:
        if not outside or not isinstance(model, Path):
            raise
        # onnxruntime reads no shape from a file beside the model, as Reshape needs it
        return onnxruntime.InferenceSession(serialized(load(model), model), options, providers)


def _within(run: Callable[..., Any], outputs: Any, given: Any) -> Any:
    """What `run` answers within `SECONDS`; no other model is timed, as it costs a thread a call."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    timer = Timer(SECONDS, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        return run(outputs, given, options)
    except Exception as error:
        if not options.terminate:
            raise
        raise TimeoutError(f"no answer within {SECONDS:g} seconds; likely cause: a loop that does not end") from error
    finally:
        timer.cancel()


def feed(batch: Batch, inputs: Sequence[str], name: Path | str) -> dict[str, Array]:
    """A batch under the names of a model's `inputs`; a model of one input takes its batch under any name.

    Raises `BadData`, which starts with `name`, for an input that is missing.
    """
    if len(inputs) == len(batch) == 1:
        return {inputs[0]: only(batch)}
    if missing := [each for each in inputs if each not in batch]:
        raise BadData(f"{name}: no input {missing[0]!r} among {', '.join(map(repr, batch))}")
    return {each: batch[each] for each in inputs}


def shapes(batch: Batch) -> str:
    """A batch in words: name, dtype and shape of every array."""
    return ", ".join(f"{name} {values.dtype} {values.shape}" for name, values in batch.items())
