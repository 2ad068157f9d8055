"""Static QDQ quantization: our ranges, handed to onnxruntime's quantize_static by its public door."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ptq.backends.onnxruntime.few_bits import compact, modern, needs_modern, stand_up
from ptq.backends.onnxruntime.grid import Grid, grid, quant_type
from ptq.calibration.layers import layers
from ptq.errors import BadModel, one_line
from ptq.files import scratch, write_bytes
from ptq.models.onnx_file import load, serialized
from ptq.quantization import weights
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

    chosen = {**_wider(prepared, plan), **_softmax(prepared, plan)}
    chosen |= {name: grid(w.integer, w.scale, w.zero_point, w.axis) for name, w in plan.grids.items()}
    single = {tensor: (np.float32(low), np.float32(high)) for tensor, (low, high) in plan.ranges.items()}
    with scratch() as folder, heard() as said:
        # quantize_static writes and removes a file beside the model: in a shared folder, another process's too
        own, cache, made = (folder / each for each in ("prepared.onnx", "ranges.json", "made.onnx"))
        if few := needs_modern(plan):
            proto = modern(load(prepared))
            for turned in stand_up(proto) & {each for each, held in chosen.items() if "axis" in held[0]}:
                chosen[turned][0]["axis"] = 0
            write_bytes(own, serialized(proto, prepared))
        else:
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
                extra_options={"TensorQuantOverrides": chosen},
                calibration_cache_path=cache,
            )
        except Exception as error:
            raise BadModel(f"{name or prepared}: quantize_static refuses it ({one_line(error)})") from error
        model = load(made)
        kinds = sorted({node.op_type for node in model.graph.node})
        if "QuantizeLinear" not in kinds:
            raise BadModel(
                f"{name or prepared}: nothing of it was quantized, but it should have nodes that can be, Conv, Gemm or "
                f"MatMul with constant weights, and not all of them kept in float; it has {', '.join(kinds)}"
            )
        if few:
            compact(model)
        write_bytes(out, serialized(model, made) if few else made.read_bytes())
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
    graph = load(prepared).graph
    known = {each.name for each in (*graph.value_info, *graph.output)}
    found = {}
    for node in graph.node:
        if node.op_type == "Softmax" and node.output[0] in known and node.name not in plan.exclude:
            integer = plan.activation(node.output[0])
            scale = np.nextafter(np.float32(1 / (integer.quantizer.levels - 1)), np.float32(0))
            found[node.output[0]] = grid(integer, scale, integer.quantizer.qmin)
    return found


def _wider(prepared: Path, plan: Plan) -> dict[str, Grid]:
    """The grids of the tensors whose integers are not the dtype's, but for weights whose grid was chosen already."""
    held = {layer.node.input[1]: layer for layer in layers(load(prepared))} if plan.integers else {}
    found = {}
    for name, integer in plan.integers.items():
        if name in plan.ranges:
            found[name] = grid(integer, *integer.quantizer.grids(*plan.ranges[name]))
        elif name in held:
            axis = held[name].axis if plan.per_channel else None
            low, high = weights.ranges(held[name].weights, axis)
            found[name] = grid(integer, *integer.weight_quantizer.grids(low, high), axis)
    return found
