"""measure: run a joint graph over some samples, one at a time, and keep the sums of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.data.batch import Batch, as_batch, size_of
from ptq.data.samples import Samples
from ptq.errors import BadData, BadModel, one_line
from ptq.models.graph import Graph
from ptq.models.onnx_file import load
from ptq.models.session import feed, session, shapes
from ptq.sensitivity.joint import HIGHEST, LOWEST, Joint, JointGraph, Key

Doubles = npt.NDArray[np.float64]
_AT_ONCE = 4
LARGE = 32 * 1024 * 1024
"""Bytes of a sample's activations beyond which few samples must do, one at a time."""


@dataclass(frozen=True, eq=False)
class Sums:
    """What a joint pass summed up: by `Key`, an array of shape (samples, channels)."""

    found: Mapping[Key, Doubles]
    rows: Mapping[str, tuple[str, str]]

    @property
    def samples(self) -> int:
        """How many samples were measured."""
        return len(next(iter(self.found.values())))


def joint(model: Path, artifact: Path) -> Joint:
    """The joint graph of a float model and a QDQ file with its tensor names.

    Raises `BadModel` when the file is no QDQ form of the model.
    """
    import onnx

    floats, quantized = load(model), load(artifact)
    kinds = {node.op_type for node in quantized.graph.node}
    if not kinds & {"QuantizeLinear", "DequantizeLinear"}:
        raise BadModel(
            f"{artifact}: has no QuantizeLinear, but should be a QDQ file: what was quantized in another format cannot "
            "be compared layer by layer"
        )
    theirs, ours = (_opset(each) for each in (quantized, floats))
    if theirs != ours:
        try:
            newest = max(theirs, ours, 13)
            floats = onnx.version_converter.convert_version(floats, newest) if ours != newest else floats
            quantized = onnx.version_converter.convert_version(quantized, newest) if theirs != newest else quantized
        except Exception as error:
            raise BadModel(
                f"{artifact}: is of opset {theirs}, {model} of {ours}, and they cannot be brought to one "
                f"({one_line(error)}): export both with the same"
            ) from error
    domains = {each.domain: each for each in (*floats.opset_import, *quantized.opset_import)}
    versions = list(domains.values()), max(floats.ir_version, quantized.ir_version)
    large, fixed = activation_bytes(floats) > LARGE, fixed_batch(floats)
    made = JointGraph(floats, quantized, _opset(floats)).make(*versions, large, fixed)
    if not made.rows:
        raise BadModel(
            f"{artifact}: none of its nodes or tensors has a name of {model}, so it should have been made from another "
            "model: give the float model it was made from"
        )
    return made


def measure(made: Joint, samples: Samples, count: int, name: Path) -> Sums:
    """Run it over `count` of the samples, spread evenly, one at a time, in exact arithmetic.

    Raises `BadData` when they do not fit the model, which messages call `name`.
    """
    # small models side by side, on one thread each; large ones one by one, on all
    large = made.large
    try:
        running = session(made.content, threads=0 if large else 1, optimize=False, name=name)
    except BadModel as error:
        raise BadModel(
            f"{name}: does not fit the float model it is compared with, so it should have been made from another: give "
            f"that one ({one_line(error)})"
        ) from error
    names = list(made.outputs.values())
    inputs = [each.name for each in running.get_inputs()]

    def run(batch: Batch) -> list[Doubles]:
        given = feed(batch, inputs, name)
        try:
            values = running.run(names, given)
        except Exception as error:
            raise BadData(f"{name}: does not run with {shapes(given)} ({one_line(error)})") from error
        return [np.asarray(each, np.float64).reshape(-1) for each in values]

    with ThreadPoolExecutor(1 if large else _AT_ONCE) as pool:
        seen = list(pool.map(run, spread(samples, count, made.fixed)))
    if not seen:
        raise BadData(f"{name}: 0 samples, but should be at least 1")
    found = {key: _stacked(key[0], [each[at] for each in seen]) for at, key in enumerate(made.outputs)}
    return Sums(found, made.rows)


def spread(samples: Samples, count: int, fixed: int | None = None) -> list[Batch]:
    """`count` samples, evenly spread over all of them, each as a batch of one, or of the model's own batch size."""
    size = fixed or 1
    whole = max(1, len(samples) // size)
    wanted = {at * whole // min(count, whole) for at in range(min(count, whole))}
    found: list[Batch] = []
    for at, batch in enumerate(map(as_batch, samples.batches(size))):
        if (at in wanted and size_of(batch) == size) or (fixed and not found and at == whole - 1):
            found.append(batch)
        if at >= max(wanted):
            break
    return found


def _stacked(what: str, values: list[Doubles]) -> Doubles:
    """Rows one below another; of rows that vary in length, their sums or extremes: their channels are not the same."""
    reduce = {LOWEST: np.min, HIGHEST: np.max}.get(what, np.sum)
    if len({len(each) for each in values}) > 1:
        values = [reduce(each, keepdims=True) for each in values]
    return np.stack(values)


def fixed_batch(model: Any) -> int | None:
    """The batch size of an `onnx.ModelProto`, None when it varies."""
    inputs = [each.type.tensor_type.shape.dim for each in Graph(model.graph).inputs]
    return max((shape[0].dim_value for shape in inputs if len(shape)), default=0) or None


def activation_bytes(model: Any) -> int:
    """What a sample's activations take in float32, as far as the shapes of an `onnx.ModelProto` are known."""
    shapes = [[each.dim_value or 1 for each in value.type.tensor_type.shape.dim] for value in model.graph.value_info]
    return sum(4 * math.prod(shape) for shape in shapes)


def _opset(model: Any) -> int:
    return max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=13)
