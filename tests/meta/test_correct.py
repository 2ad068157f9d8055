"""The corrected model: nearer to the float one, on the grid it is quantized with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_model import IMAGES, small_model

from ptq.backends.onnxruntime import BACKENDS
from ptq.backends.onnxruntime.quantize import quantize
from ptq.calibration.moments_pass import moments
from ptq.calibration.observe import observe
from ptq.calibration.statistics import collect
from ptq.calibration.statistics_pass import statistics
from ptq.cases import Case
from ptq.data.batch import only
from ptq.engine.registry import Registry
from ptq.models.session import session
from ptq.quantization.calibration import Calibration
from ptq.quantization.correct import correct, pool_globally
from ptq.quantization.dtype import DTYPES
from ptq.quantization.methods.mse import mse
from ptq.quantization.plan import Plan


def seen(model: Path) -> Calibration:
    return Calibration(IMAGES, lambda: statistics(model, IMAGES), {}, lambda: moments(model, IMAGES))


def test_pooling_over_the_whole_map_becomes_global_and_another_does_not(tmp_path: Path) -> None:
    model = onnx.load(small_model(tmp_path / "m.onnx"))
    assert pool_globally(model) == 1
    assert [node.op_type for node in model.graph.node][3] == "GlobalAveragePool"
    onnx.save(model, tmp_path / "g.onnx")
    batch = only(next(IMAGES.batches(8)))
    before, after = (session(tmp_path / name).run(None, {"x": batch})[0] for name in ("m.onnx", "g.onnx"))
    assert np.allclose(before, after, atol=1e-5)
    partial = onnx.load(small_model(tmp_path / "m.onnx"))
    partial.graph.node[3].attribute[0].ints[:] = [3, 6]
    del partial.graph.value_info[:]
    assert pool_globally(partial) == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["u8s8", "uint8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_corrected_model_is_nearer_to_the_float_model(dtype: str, per_channel: bool, tmp_path: Path) -> None:
    model, kind = small_model(tmp_path / "m.onnx"), DTYPES[dtype]
    ranges = {name: mse(each, kind.quantizer) for name, each in collect(observe(model, IMAGES)).items()}
    plan = Plan(kind, ranges, per_channel)
    moved, _ = correct(model, tmp_path / "c.onnx", plan, seen(model))
    assert set(moved.grids) == {"w1", "w2", "w3", "w4"}
    quantize(tmp_path / "c.onnx", moved, tmp_path / "corrected.onnx")
    quantize(model, plan, tmp_path / "plain.onnx")
    fresh = np.maximum(np.random.default_rng(9).normal(size=(200, 3, 8, 8)) + 0.5, 0).astype(np.float32)
    want = session(model).run(None, {"x": fresh})[0]
    plain, corrected = (
        np.square(session(tmp_path / name).run(None, {"x": fresh})[0] - want).mean()
        for name in ("plain.onnx", "corrected.onnx")
    )
    assert corrected < plain
    # what quantize_static rounds is already on the grid, so it keeps every weight
    held = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "corrected.onnx").graph.initializer}
    source = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "c.onnx").graph.initializer}
    scale, zero = (held[f"w1_{each}"].reshape(-1, 1, 1, 1) for each in ("scale", "zero_point"))
    real = (held["w1_quantized"].astype(np.float32) - zero) * scale
    assert np.allclose(real, source["w1"], atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_corrected_int8_model_is_the_u8s8_one_moved_by_128(per_channel: bool, tmp_path: Path) -> None:
    """Why the grid has one of them: as written, level for level, they are the same model."""
    model, answers = small_model(tmp_path / "m.onnx"), []
    for dtype in ("u8s8", "int8"):
        kind = DTYPES[dtype]
        ranges = {name: mse(each, kind.quantizer) for name, each in statistics(model, IMAGES).items()}
        moved, _ = correct(model, tmp_path / "c.onnx", Plan(kind, ranges, per_channel), seen(model))
        quantize(tmp_path / "c.onnx", moved, tmp_path / f"{dtype}.onnx")
        answers.append(session(tmp_path / f"{dtype}.onnx", optimize=False).run(None, {"x": IMAGES.inputs})[0])
    assert np.array_equal(*answers)
    one, other = (
        {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / f"{dtype}.onnx").graph.initializer}
        for dtype in ("u8s8", "int8")
    )
    for name, value in one.items():
        moved = 128 if value.dtype == np.uint8 else 0
        assert np.array_equal(value.astype(np.float64) - moved, other[name].astype(np.float64)), name
    twin = Case("any", "onnxruntime", "int8", "mse_gptq", "channel" if per_channel else "tensor")
    listed = list(BACKENDS[0].cases("any", Registry().methods))
    assert twin not in listed
    assert replace(twin, dtype="u8s8") in listed
    assert replace(twin, method="mse") in listed


def test_correction_leaves_excluded_nodes_alone_and_gives_the_same_bytes(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx")
    for name in ("one.onnx", "two.onnx"):
        moved, _ = correct(model, tmp_path / name, Plan(DTYPES["u8s8"], {}, True, ["c1", "m"]), seen(model))
    assert set(moved.grids) == {"w2", "w3"}
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
