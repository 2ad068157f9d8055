"""Smoothing: outliers move into weights, the float model stays the same, and its quantized form comes nearer to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_encoder import WIDTH, sentences, write_encoder

from ptq.backends.onnxruntime.dynamic import on_grids
from ptq.calibration.layers import layers
from ptq.calibration.moments_pass import moments
from ptq.data.samples import ArraySamples
from ptq.models.session import session
from ptq.quantization import weights
from ptq.quantization.calibration import Calibration
from ptq.quantization.correct import correct
from ptq.quantization.dtype import DTYPES
from ptq.quantization.plan import Plan, WeightGrid
from ptq.quantization.smooth import smooth

SEEN, FRESH = sentences(200), sentences(50, seed=9)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """The small encoder with two channels of its embeddings far larger than the others, and small weights there."""
    path = write_encoder(tmp_path / "encoder.onnx")
    model = onnx.load(path)
    for held in model.graph.initializer:
        values = numpy_helper.to_array(held).copy()
        if held.name == "words":
            values[:, :2] *= 30
        elif held.name in ("wq", "wk", "wv", "wo"):
            values[:2] /= 30
        held.CopyFrom(numpy_helper.from_array(values, held.name))
    onnx.save(model, path)
    return path


def calibration(model: Path, samples: Any = SEEN) -> Calibration:
    return Calibration(samples, dict, {}, lambda: moments(model, samples))


def outputs(model: Path, samples: ArraySamples = FRESH) -> np.ndarray:
    running = session(model)
    return np.concatenate([running.run(None, dict(batch))[0] for batch in samples.batches(8)])


def rounded(model: Path, out: Path, dtype: str = "uint8") -> Path:
    """The model on grids to which its weights are rounded one by one."""
    kind = DTYPES[dtype]
    proto, grids = onnx.load(model), {}
    held = {each.name: each for each in proto.graph.initializer}
    for layer in layers(proto):
        name = layer.node.input[1]
        scale, zero = kind.weight_quantizer.grids(*weights.ranges(layer.weights, layer.axis))
        values = kind.weight_quantizer.simulate(layer.weights, *weights.ranges(layer.weights, layer.axis))
        held[name].CopyFrom(numpy_helper.from_array(values, name))
        grids[name] = WeightGrid(kind.weight, scale, zero, layer.axis)
    onnx.save(proto, out)
    on_grids(out, Plan(kind, {}, True, exclude=["x"], grids=grids), out)  # the lookup's own error stays away
    return out


def error(model: Path, reference: Path) -> float:
    return float(((outputs(model) - outputs(reference)) ** 2).mean())


def test_the_float_model_stays_the_same_and_smoothing_wins(encoder: Path, tmp_path: Path) -> None:
    smoothed = tmp_path / "smoothed.onnx"
    notes = smooth(encoder, smoothed, calibration(encoder))
    assert notes["smoothed"].startswith("2 of 2 inputs of matrix products")
    before, after = outputs(encoder), outputs(smoothed)
    assert np.abs(after - before).max() <= 1e-4 * np.ptp(before)
    plain = error(rounded(encoder, tmp_path / "plain.onnx"), encoder)
    assert error(rounded(smoothed, tmp_path / "smooth.onnx"), encoder) < plain / 4


def test_gptq_of_matrix_products_wins_over_rounding(encoder: Path, tmp_path: Path) -> None:
    smoothed, moved = tmp_path / "smoothed.onnx", tmp_path / "moved.onnx"
    smooth(encoder, smoothed, calibration(encoder))
    kind = DTYPES["u8s8"]  # on one grid: with few bits GPTQ chooses another
    plan, _ = correct(smoothed, moved, Plan(kind, {}, True), calibration(smoothed))
    assert [grid.integer.bits for grid in plan.grids.values()] == [8] * 4
    plain = onnx.load(smoothed)
    held = {each.name: each for each in plain.graph.initializer}
    for layer in list(layers(plain)):
        name, (low, high) = layer.node.input[1], weights.ranges(layer.weights, layer.axis)
        held[name].CopyFrom(numpy_helper.from_array(kind.weight_quantizer.simulate(layer.weights, low, high), name))
    onnx.save(plain, tmp_path / "one_by_one.onnx")
    assert error(moved, encoder) < 0.9 * error(tmp_path / "one_by_one.onnx", encoder)


def model_of(nodes: list[Any], held: dict[str, np.ndarray], path: Path) -> Path:
    shape = ["n", WIDTH]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, shape)],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in held.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


RANDOM = np.random.default_rng(1)
W, GAMMA, BETA = RANDOM.normal(size=(WIDTH, WIDTH)), RANDOM.uniform(0.5, 1, WIDTH), RANDOM.normal(size=WIDTH)
GAMMA[3] = 50.0
NODE = helper.make_node
PRODUCT = NODE("MatMul", ["h", "w"], ["y"], "y")
FOLDED: dict[str, tuple[list[Any], dict[str, np.ndarray]]] = {
    "LayerNormalization": ([NODE("LayerNormalization", ["x", "g", "b"], ["h"], "h"), PRODUCT], {"g": GAMMA, "b": BETA}),
    "Mul and Add": (
        [NODE("Mul", ["x", "g"], ["m"], "m"), NODE("Add", ["b", "m"], ["h"], "h"), PRODUCT],
        {"g": GAMMA, "b": BETA},
    ),
    "a product": (
        [NODE("MatMul", ["x", "v"], ["m"], "m"), NODE("Add", ["m", "b"], ["h"], "h"), PRODUCT],
        {"v": W * GAMMA, "b": BETA},
    ),
}
KEPT: dict[str, tuple[list[Any], dict[str, np.ndarray]]] = {
    "something else reads it": (
        [
            NODE("Mul", ["x", "g"], ["h"], "h"),
            NODE("MatMul", ["h", "w"], ["p"], "p"),
            NODE("Add", ["p", "h"], ["y"], "y"),
        ],
        {"g": GAMMA},
    ),
    "the number of a Gelu": (
        [
            NODE("Mul", ["x", "g"], ["m"], "m"),
            NODE("Relu", ["m"], ["r"], "r"),
            NODE("Mul", ["r", "s"], ["h"], "h"),
            PRODUCT,
        ],
        {"g": GAMMA, "s": np.array(0.5)},
    ),
}


@pytest.mark.parametrize("name", [*FOLDED, *KEPT])
def test_the_division_goes_where_nothing_else_reads_it(name: str, tmp_path: Path) -> None:
    nodes, held = (FOLDED | KEPT)[name]
    path = model_of(nodes, {"w": W, **held}, tmp_path / "m.onnx")
    samples = ArraySamples({"x": np.random.default_rng(2).normal(size=(64, WIDTH)).astype(np.float32)})
    smooth(path, tmp_path / "s.onnx", calibration(path, samples))
    kinds = [node.op_type for node in onnx.load(tmp_path / "s.onnx").graph.node]
    before = [node.op_type for node in nodes]
    assert len(kinds) == len(before) + (name in KEPT)
    assert outputs(tmp_path / "s.onnx", samples) == pytest.approx(outputs(path, samples), abs=1e-3)
    left = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "s.onnx").graph.initializer}
    assert "s" not in held or left["s"] == 0.5


def test_a_constant_that_another_node_reads_is_left_to_it(tmp_path: Path) -> None:
    nodes = [
        NODE("LayerNormalization", ["x", "g", "b"], ["h"], "h"),
        NODE("MatMul", ["h", "w"], ["p"], "p"),
        NODE("LayerNormalization", ["p", "g", "b"], ["y"], "y"),
    ]
    path = model_of(nodes, {"w": W, "g": GAMMA, "b": BETA}, tmp_path / "m.onnx")
    samples = ArraySamples({"x": np.random.default_rng(2).normal(size=(64, WIDTH)).astype(np.float32)})
    assert "1 of 1" in smooth(path, tmp_path / "s.onnx", calibration(path, samples))["smoothed"]
    assert outputs(tmp_path / "s.onnx", samples) == pytest.approx(outputs(path, samples), abs=1e-3)
