"""Four and sixteen bits: files as small as they say, edges that keep eight, recipes that beat the nearest level."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_model import IMAGES, fit, model_of, small_model
from test_any_model import Made

from ptq.api import quantize
from ptq.backends.onnxruntime import BACKENDS
from ptq.calibration.layers import layers
from ptq.calibration.moments_pass import moments
from ptq.calibration.statistics_pass import statistics
from ptq.cases import Case
from ptq.cli import main
from ptq.data.samples import ArraySamples
from ptq.engine.registry import Registry
from ptq.errors import PtqError, Unsupported
from ptq.models.onnx_file import load
from ptq.models.session import session
from ptq.quantization import weights
from ptq.quantization.calibration import Calibration
from ptq.quantization.dtype import DTYPES
from ptq.quantization.edges import with_edges
from ptq.quantization.gptaq import gptaq
from ptq.quantization.gptq import expected_error, fit_weights, round_weights
from ptq.quantization.methods.mixed import mixed
from ptq.quantization.methods.mse import mse
from ptq.quantization.plan import Plan
from ptq.quantization.rounded import Rounded

pytestmark = pytest.mark.filterwarnings("ignore")
METHODS = Registry().methods


def residual(path: Path) -> Path:
    """Conv, Relu, a block of two convolutions beside a skip, Relu, pooling, Gemm."""
    generator = np.random.default_rng(3)
    held = []
    for name, shape in {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "w3": (16, 16, 3, 3), "w4": (16, 6)}.items():
        fan = shape[0] if len(shape) == 2 else np.prod(shape[1:])
        held.append(numpy_helper.from_array((generator.normal(size=shape) * np.sqrt(2 / fan)).astype(np.float32), name))
        outputs = shape[-1] if len(shape) == 2 else shape[0]
        held.append(numpy_helper.from_array(generator.normal(size=outputs).astype(np.float32) / 5, f"b{name}"))
    conv = {"pads": [1] * 4, "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "bw1"], ["c1"], "first", **conv),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "bw2"], ["c2"], "second", **conv),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3", "bw3"], ["c3"], "third", **conv),
        helper.make_node("Add", ["r1", "c3"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["r3"]),
        helper.make_node("GlobalAveragePool", ["r3"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w4", "bw4"], ["y"], "last"),
    ]
    return model_of(path, nodes, ["n", 3, 8, 8], ["n", 6], held)


def kinds(path: Path) -> dict[str, str]:
    """By tensor that is quantized, or is a weight, the element type it has in the file."""
    graph = onnx.load(path).graph
    held = {each.name: each.data_type for each in graph.initializer}
    made = {
        node.input[0].removesuffix("_QuantizeLinear_Input"): held[node.input[2]]
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    }
    weights = {name.removesuffix("_quantized"): kind for name, kind in held.items() if name.endswith("_quantized")}
    return {name: TensorProto.DataType.Name(kind) for name, kind in {**made, **weights}.items()}


def made(path: Path, out: Path, dtype: str, method: str = "mse_gptaq") -> float:
    return Made.of(path, IMAGES).error(IMAGES, out, method, dtype=dtype)


def test_fitting_layer_by_layer_beats_rounding_each_alone_which_beats_the_nearest_level(tmp_path: Path) -> None:
    fresh = ArraySamples(np.maximum(np.random.default_rng(9).normal(size=(200, 3, 8, 8)) + 0.5, 0).astype(np.float32))
    model, methods = Made.of(residual(tmp_path / "r.onnx"), IMAGES), ("mse", "mse_gptq", "mse_gptaq")
    nearest, alone, fitted = (model.error(fresh, tmp_path / "q.onnx", each, dtype="u8s4") for each in methods)
    assert fitted < alone < nearest


def test_a_narrower_grid_a_channel_leaves_less_error_and_eight_bits_keep_the_whole_range(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx")
    seen = moments(model, IMAGES)
    for layer in layers(load(model)):
        low, high = weights.ranges(layer.weights, layer.axis)
        for dtype in ("u8s4", "u8s8"):
            quantizer, found = DTYPES[dtype].weight_quantizer, seen[layer.output]
            scale, zero = quantizer.grids(low, high)
            plain = round_weights(layer.rows, quantizer, scale, zero, found, layer.has_bias)
            fitted, _, _ = fit_weights(layer.rows, quantizer, low, high, found, layer.has_bias)
            before, after = (expected_error(layer.rows, each, found, layer.has_bias).sum() for each in (plain, fitted))
            assert after < before if dtype == "u8s4" else np.array_equal(plain, fitted)


@pytest.mark.parametrize("dtype", ["u8s4", "u4s4", "u4s4_edge8", "u16s8"])
def test_the_two_models_side_by_side_are_the_ones_that_are_written(dtype: str, tmp_path: Path) -> None:
    """Every tensor of `Rounded` is that of the file: else a layer would be fitted to errors that are not there."""
    model = residual(tmp_path / "m.onnx")
    quantizer = DTYPES[dtype].quantizer
    calibration = Calibration(fit(model, IMAGES), lambda: statistics(model, IMAGES), METHODS)
    ranges = {name: mse(each, quantizer) for name, each in calibration.statistics().items()}
    plan = with_edges(model, Plan(DTYPES[dtype], ranges, per_channel=True), "mse", calibration)
    plan, _ = gptaq(model, tmp_path / "c.onnx", plan, calibration)
    (batch,) = fit(model, IMAGES).batches(40)
    from ptq.backends.onnxruntime.quantize import quantize as write

    write(tmp_path / "c.onnx", plan, tmp_path / "q.onnx")
    want = session(tmp_path / "q.onnx", optimize=False).run(None, dict(batch))[0]
    proto = load(tmp_path / "c.onnx")
    rounded = Rounded(proto, plan, model)
    for layer in layers(proto):
        name = layer.node.input[1]
        bias = numpy_helper.to_array(rounded.graph.initializers[layer.node.input[2]])
        rounded.give(layer, plan.grids[name], layer.rows, bias)
    seen = rounded.settle(dict(batch))
    for index in range(len(rounded.graph.nodes)):
        seen.update(rounded.settle(rounded.run(index, seen)))
    assert np.abs(seen["y"] - want).mean() <= 1e-5 * np.abs(want).max()  # a sum may round to the next of 65,536


def test_edges_have_eight_bits_and_nothing_else_has(tmp_path: Path) -> None:
    model = residual(tmp_path / "m.onnx")
    made(model, tmp_path / "q.onnx", "u4s4_edge8")
    edged = kinds(tmp_path / "q.onnx")
    made(model, tmp_path / "q.onnx", "u4s4")
    plain = kinds(tmp_path / "q.onnx")
    assert {name for name, kind in edged.items() if kind == "INT4"} == {"w2", "w3"}
    assert {name for name, kind in plain.items() if kind == "INT4"} == {"w1", "w2", "w3", "w4"}
    assert {name for name, kind in edged.items() if kind == "UINT4"} == {"r1", "r2", "r3"}
    assert {name for name, kind in plain.items() if kind == "UINT4"} == {"r1", "r2", "r3", "pooled", "flat"}
    assert {edged[name] for name in ("x", "c3", "flat", "y")} == {plain[name] for name in ("x", "c3", "y")} == {"UINT8"}


def test_a_file_of_few_bits_is_small_and_of_the_operator_set_that_knows_them(tmp_path: Path) -> None:
    model, size = residual(tmp_path / "m.onnx"), {}
    for dtype in ("u8s8", "u8s4", "u16s8"):
        made(model, tmp_path / f"{dtype}.onnx", dtype)
        size[dtype] = (tmp_path / f"{dtype}.onnx").stat().st_size
    held = sum(layer.weights.size for layer in layers(load(model)))
    assert size["u8s8"] - size["u8s4"] > 0.5 * held
    file = onnx.load(tmp_path / "u8s4.onnx")
    onnx.checker.check_model(file)
    assert [(each.domain, each.version) for each in file.opset_import] == [("", 21)]
    assert {node.name for node in file.graph.node if node.name} >= {"first", "second", "third", "last"}
    census = BACKENDS[0].census(tmp_path / "u8s4.onnx")
    assert census.simulated == "in float: onnxruntime has no integer kernel for int4 on this CPU"
    assert census.weight_bytes == {"int4": held // 2}
    points = {each.name for each in file.graph.initializer if each.name.endswith("_zero_point")}
    assert points == {node.input[2] for node in file.graph.node if node.op_type == "QuantizeLinear"}
    assert BACKENDS[0].census(tmp_path / "u8s8.onnx").simulated is None
    wide = BACKENDS[0].census(tmp_path / "u16s8.onnx").simulated
    assert wide == "in float: onnxruntime has no integer kernel for uint16 on this CPU"


def test_sixteen_bits_are_not_rounded_to_eight_behind_the_files_back(tmp_path: Path) -> None:
    """onnxruntime makes a Gemm of dequantized weights a MatMulNBits, which rounds activations on its own."""
    model = residual(tmp_path / "m.onnx")
    made(model, tmp_path / "q.onnx", "u16s8")
    (batch,) = fit(model, IMAGES).batches(40)
    fast, plain = (session(tmp_path / "q.onnx", optimize=each).run(None, dict(batch))[0] for each in (True, False))
    assert np.abs(fast - plain).max() < 1e-3 * np.abs(plain).max()


def test_the_same_samples_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_few_bits import made, residual\n"
        "folder = Path(sys.argv[2]); made(residual(folder / 'm.onnx'), folder / 'q.onnx', 'u8s4')\n"
    )
    files = []
    for name, threads in (("one", "1"), ("two", "4")):
        (tmp_path / name).mkdir()
        told = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        given = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / name)]
        subprocess.run(given, check=True, env=told)
        files.append((tmp_path / name / "q.onnx").read_bytes())
    assert files[0] == files[1]


def test_what_is_excluded_stays_in_float(tmp_path: Path) -> None:
    model = residual(tmp_path / "m.onnx")
    plan = Plan(DTYPES["u8s4"], {}, True, ["second"])
    plan, _ = gptaq(model, tmp_path / "c.onnx", plan, Calibration(fit(model, IMAGES), dict, METHODS))
    assert set(plan.grids) == {"w1", "w3", "w4"}
    kept, source = (
        {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}["w2"]
        for path in (tmp_path / "c.onnx", model)
    )
    assert np.array_equal(kept, source)


def test_a_size_budget_is_met_by_layers_of_both_sizes(tmp_path: Path) -> None:
    model = residual(tmp_path / "m.onnx")
    whole, least = (quantize(model, IMAGES.inputs, dtype=dtype) for dtype in ("u8s8", "u8s4"))
    bytes_, fewest = whole.path.stat().st_size, least.path.stat().st_size
    budget = (bytes_ + 3 * fewest) / 4 / bytes_
    found = quantize(model, IMAGES.inputs, size_budget=budget)
    assert fewest < found.path.stat().st_size <= budget * bytes_
    held = kinds(found.path)
    assert {held[name] for name in ("w1", "w2", "w3", "w4")} == {"INT4", "INT8"}
    assert found.notes["corrected"].startswith("s7 in ")
    with pytest.raises(
        PtqError, match=r"m\.onnx: a size budget of 0\.1 of [\d,]+ bytes is [\d,]+, but 4 bits in every"
    ):
        quantize(model, IMAGES.inputs, size_budget=0.1)
    with pytest.raises(PtqError, match="a size budget chooses dtype, method and granularity itself"):
        quantize(model, IMAGES.inputs, size_budget=0.8, dtype="u8s4")


def test_mixed_puts_a_byte_where_it_gains_most_and_refuses_what_cannot_be(tmp_path: Path) -> None:
    model = residual(tmp_path / "m.onnx")
    plan = Plan(DTYPES["u8s4"], {}, True)
    seen = Calibration(fit(model, IMAGES), dict, METHODS, lambda: moments(model, IMAGES))
    with pytest.raises(
        Unsupported, match=r"m\.onnx: a budget of 0\.4 of the weights' 8-bit size is [\d,]+ bytes, but s4"
    ):
        mixed(0.4).corrects(model, tmp_path / "c.onnx", plan, seen)  # type: ignore[misc]
    found = []
    for share in (0.5, 0.6, 1.0):
        moved, _ = mixed(share).corrects(model, tmp_path / "c.onnx", plan, seen)  # type: ignore[misc]
        bits = {name: moved.grids[name].integer.bits for name in ("w1", "w2", "w3", "w4")}
        sizes = {layer.node.input[1]: layer.weights.size for layer in layers(load(model))}
        assert sum({4: 4, 7: 8}[bits[name]] * size for name, size in sizes.items()) <= 8 * share * sum(sizes.values())
        found.append(sorted(bits.values()))
    assert found[0] == [4] * 4
    assert found[0] < found[1] < found[2] == [7] * 4


def test_the_default_recipe_of_few_bits_is_the_one_that_won(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = residual(tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", IMAGES.inputs)
    given = [str(model), "--calibration", str(tmp_path / "x.npy"), "-o", str(tmp_path / "q.onnx")]
    with pytest.raises(SystemExit) as stop:
        main(["quantize", *given, "--dtype", "u4s4_edge8"])
    said = capsys.readouterr().out
    assert stop.value.code in (0, None)
    assert "case: m-onnxruntime-u4s4_edge8-mse_gptaq-channel" in said
    with pytest.raises(SystemExit) as stop:
        main(["quantize", *given, "--dtype", "u8s4", "--method", "minmax"])
    said = capsys.readouterr().out
    assert stop.value.code in (0, None)
    assert "case: m-onnxruntime-u8s4-minmax-channel" in said
    with pytest.raises(SystemExit) as stop:
        main(["quantize", *given, "--size-budget", "0.9"])
    said = capsys.readouterr().out
    assert stop.value.code in (0, None)
    assert "-mixed_" in said
    listed = list(BACKENDS[0].cases("w", METHODS))
    assert Case("w", "onnxruntime", "u4s4_edge8", "mse_gptaq", "channel") in listed
    assert replace(listed[1], dtype="u4s4") not in listed
    assert not METHODS["mse_gptaq"].listed
