"""Equalized models: the same function in float, for any input, and channels of one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_model import model_of

from ptq.calibration.moments_pass import moments
from ptq.calibration.statistics_pass import statistics
from ptq.data.samples import ArraySamples
from ptq.models.session import session
from ptq.quantization.calibration import Calibration
from ptq.quantization.equalize import channel_bounds, equalize, groups

CHANNELS = 6
SIZES = np.geomspace(0.02, 20, CHANNELS).astype(np.float32)
IMAGES = ArraySamples(np.random.default_rng(0).normal(size=(24, 3, 8, 8)).astype(np.float32))
FRESH = (5 * np.random.default_rng(1).normal(size=(50, 3, 8, 8))).astype(np.float32)


def uneven(path: Path, kind: str) -> Path:
    """A Conv whose channels differ in size by 1,000, what `kind` says, and what reads it."""
    generator, held, nodes = np.random.default_rng(2), [], []

    def conv(source: str, name: str, out: int, per_group: int, kernel: int, sizes: Any = 1.0, group: int = 1) -> str:
        weights = generator.normal(0, 0.4, (out, per_group, kernel, kernel)) * np.reshape(sizes, (-1, 1, 1, 1))
        bias = generator.normal(0, 0.4, out) * sizes
        held.extend(
            numpy_helper.from_array(v.astype(np.float32), f"{name}{n}") for n, v in (("w", weights), ("b", bias))
        )
        pads = [kernel // 2] * 4
        nodes.append(
            helper.make_node("Conv", [source, f"{name}w", f"{name}b"], [name], name=name, group=group, pads=pads)
        )
        return name

    def unary(operator: str, source: str, *more: str) -> str:
        nodes.append(helper.make_node(operator, [source, *more], [f"{source}_{operator}"], name=f"{source}_{operator}"))
        return f"{source}_{operator}"

    held += [numpy_helper.from_array(np.float32(value), name) for name, value in (("zero", 0), ("six", 6))]
    first = conv("x", "first", CHANNELS, 3, 3, SIZES)
    if kind == "add":
        other = conv(first, "inner", CHANNELS, CHANNELS, 1, SIZES)
        nodes.append(helper.make_node("Add", [first, other], ["sum"], name="sum"))
        last = conv("sum", "last", 4, CHANNELS, 1)
    elif kind == "clip":
        clipped = unary("Clip", first, "zero", "six")
        deep = unary("Clip", conv(clipped, "deep", CHANNELS, 1, 3, np.minimum(SIZES, 1), CHANNELS), "zero", "six")
        last = conv(deep, "last", 4, CHANNELS, 1)
    elif kind == "two readers":
        relu = unary("Relu", first)
        last = conv(relu, "last", 4, CHANNELS, 1)
        nodes.append(helper.make_node("Sigmoid", [relu], ["side"], name="side"))
        nodes.append(helper.make_node("ReduceMean", ["side"], ["mean"], name="mean", keepdims=1))
        nodes.append(helper.make_node("Mul", [last, "mean"], ["both"], name="both"))
        last = "both"
    else:
        deep = unary("Relu", conv(unary("Relu", first), "deep", CHANNELS, 1, 3, 1 / SIZES, CHANNELS))
        last = conv(deep, "last", 4, CHANNELS, 1)
    pooled = unary("Flatten", unary("GlobalAveragePool", unary("Relu", last) if kind != "two readers" else last))
    held.append(numpy_helper.from_array(generator.normal(size=(4, 5)).astype(np.float32), "gw"))
    held.append(numpy_helper.from_array(generator.normal(size=5).astype(np.float32), "gb"))
    nodes.append(helper.make_node("Gemm", [pooled, "gw", "gb"], ["y"], name="gemm"))
    return model_of(path, nodes, ["n", 3, 8, 8], ["n", 5], held)


def seen(model: Path) -> Calibration:
    return Calibration(IMAGES, lambda: statistics(model, IMAGES), {}, lambda: moments(model, IMAGES))


@pytest.mark.parametrize("kind", ["relu", "add", "clip", "two readers"])
def test_the_function_stays_the_same_for_inputs_far_beyond_calibration(kind: str, tmp_path: Path) -> None:
    model, out = uneven(tmp_path / "m.onnx", kind), tmp_path / "e.onnx"
    assert "channels scaled" in equalize(model, out, seen(model))["equalized"]
    want, have = (session(path, optimize=False).run(None, {"x": FRESH})[0] for path in (model, out))
    assert np.abs(want - have).max() <= 1e-5 * np.ptp(want)
    assert (out.read_bytes() != model.read_bytes()) is (kind != "two readers")
    equalize(model, tmp_path / "again.onnx", seen(model))
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()


@pytest.mark.parametrize(("kind", "tensor", "least"), [("relu", "first_Relu", 10), ("add", "sum", 5)])
def test_channels_come_to_be_nearer_in_size(kind: str, tensor: str, least: float, tmp_path: Path) -> None:
    model, out = uneven(tmp_path / "m.onnx", kind), tmp_path / "e.onnx"
    equalize(model, out, seen(model))
    spread = []
    for path in (model, out):
        low, high = channel_bounds(path, seen(path), {tensor})[tensor]
        size = np.maximum(-low, high)
        spread.append(size.max() / size.min())
    assert spread[1] * least < spread[0]


def test_a_channel_that_may_be_clipped_or_is_read_elsewhere_stays_as_it_is(tmp_path: Path) -> None:
    weights = {}
    for kind in ("clip", "two readers"):
        model, out = uneven(tmp_path / "m.onnx", kind), tmp_path / "e.onnx"
        equalize(model, out, seen(model))
        for path in (model, out):
            weights[kind, path.name] = {
                each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer
            }
    for name in ("firstw", "firstb"):  # the image has no bound, so what reads it may be clipped
        assert np.array_equal(weights["clip", "m.onnx"][name], weights["clip", "e.onnx"][name])
        assert np.array_equal(weights["two readers", "m.onnx"][name], weights["two readers", "e.onnx"][name])
    changed = (weights["clip", "m.onnx"]["deepw"] != weights["clip", "e.onnx"]["deepw"]).any(axis=(1, 2, 3))
    assert changed.any()
    assert not changed.all()


def test_the_groups_of_a_residual_stream_are_one(tmp_path: Path) -> None:
    found = list(groups(onnx.load(uneven(tmp_path / "m.onnx", "add"))))
    assert [layer.node.name for layer in found[0].makers] == ["first", "inner"]
    assert [layer.node.name for layer in found[0].takers] == ["inner", "last"]
    assert sorted(found[0].sources("sum")) == ["first", "inner"]
