"""Static QDQ quantization: our ranges, handed to onnxruntime's quantize_static by its public door."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ptq.backends.onnxruntime.grid import Grid, grid, quant_type
from ptq.errors import BadModel, one_line
from ptq.files import write_bytes
from ptq.models.onnx_file import load
from ptq.quantization.plan import Plan

_NOTHING_LOST = ("pre-processing", "is out-of-range for weight")
"""Parts of warnings about a step of its own that was left out, and weights of one dimension, which have no channels."""


def quantize(prepared: Path, plan: Plan, out: Path, name: Path | None = None) -> Mapping[str, str]:
    """Write `prepared` as a QDQ model to `out`; messages call it `name`, by default its path.

    Returns what onnxruntime warned of, as a note: of a bias too large for its scale, say.
    Raises `BadModel` with onnxruntime's own words when it refuses, and for a model with nothing to quantize.
    """
    from onnxruntime.quantization import QuantFormat, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData, save_tensors_data

    chosen = {name: grid(w.integer, w.scale, w.zero_point, w.axis) for name, w in plan.grids.items()}
    single = {tensor: (np.float32(low), np.float32(high)) for tensor, (low, high) in plan.ranges.items()}
    with tempfile.TemporaryDirectory() as folder, heard() as said:
        # quantize_static writes and removes a file beside the model: in a shared folder, another process's too
        own, cache, made = (Path(folder) / each for each in ("prepared.onnx", "ranges.json", "made.onnx"))
        shutil.copyfile(prepared, own)
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, single), cache)
        try:
            quantize_static(
                str(own),
                str(made),
                quant_format=QuantFormat.QDQ,
                activation_type=quant_type(plan.dtype.activation),
                weight_type=quant_type(plan.dtype.weight),
                per_channel=plan.per_channel,
                reduce_range=plan.dtype.weight.bits == 7,
                nodes_to_exclude=list(plan.exclude),
                extra_options={"TensorQuantOverrides": {**_softmax(prepared, plan), **chosen}},
                calibration_cache_path=cache,
            )
        except Exception as error:
            raise BadModel(f"{name or prepared}: quantize_static refuses it ({one_line(error)})") from error
        kinds = sorted({node.op_type for node in load(made).graph.node})
        if "QuantizeLinear" not in kinds:
            raise BadModel(
                f"{name or prepared}: nothing of it was quantized, but it should have nodes that can be, Conv, Gemm or "
                f"MatMul with constant weights, and not all of them kept in float; it has {', '.join(kinds)}"
            )
        write_bytes(out, made.read_bytes())
    return {"onnxruntime warned": one_line("; ".join(said))} if said else {}


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """The warnings that onnxruntime logs by the root logger, once each; what it prints and its own deprecations are
    dropped."""
    said: dict[str, None] = {}
    root, handler = logging.getLogger(), logging.NullHandler()  # without a handler, logging would add one of its own

    def hear(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING and not any(each in record.getMessage() for each in _NOTHING_LOST):
            said[one_line(record.getMessage())] = None
        return False

    root.addHandler(handler)
    root.addFilter(hear)
    heard: list[str] = []
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield heard
            heard.extend(said)
    finally:
        root.removeFilter(hear)
        root.removeHandler(handler)


def _softmax(prepared: Path, plan: Plan) -> dict[str, Grid]:
    """The grid of every Softmax's output: that of quantize_static, 0..1, with a scale one bit smaller.

    onnxruntime's integer Softmax multiplies with ``floor(1 / scale)``, which in float32 is 254 for 1/255: a certain
    answer would come out as 0.996.
    """
    quantizer = plan.dtype.quantizer
    scale = np.nextafter(np.float32(1 / (quantizer.levels - 1)), np.float32(0))
    graph = load(prepared).graph
    known = {each.name for each in (*graph.value_info, *graph.output)}
    return {
        node.output[0]: grid(plan.dtype.activation, scale, quantizer.qmin)
        for node in graph.node
        if node.op_type == "Softmax" and node.output[0] in known and node.name not in plan.exclude
    }
