"""The pass over a real model: what is exposed, batches, errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_model import IMAGES, model_of, small_model

from ptq.calibration.expose import expose
from ptq.calibration.extremes import extremes
from ptq.calibration.observe import each_batch, observe
from ptq.calibration.statistics import collect
from ptq.calibration.statistics_pass import statistics
from ptq.data.samples import ArraySamples, Float32
from ptq.errors import BadData, BadModel


def test_every_float_activation_is_seen_and_the_batch_does_not_matter(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx")
    seen = collect(observe(model, IMAGES, 32))
    assert set(seen) == {"x", "c1", "r1", "c2", "p", "f", "g", "y"}
    assert seen["c1"].count == 40 * 8 * 8 * 8
    assert seen["c1"].min < 0
    other = collect(observe(model, IMAGES, 7))
    for name in ("x", "c1", "r1"):
        assert (seen[name].min, seen[name].max) == (other[name].min, other[name].max)
        assert np.array_equal(seen[name].histogram.counts, other[name].histogram.counts)


def test_peaks_hold_both_ends_of_every_map(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx")
    images = next(IMAGES.batches(5))
    whole, peaks = expose(model)(images), expose(model, peaks=True)(images)
    assert list(whole) == list(peaks)
    assert {name: each.shape for name, each in peaks.items() if name in ("c1", "r1", "c2", "p")} == {
        "c1": (5, 16), "r1": (5, 8), "c2": (5, 16), "p": (5, 16)
    }  # fmt: skip
    for name, each in whole.items():
        rows, held = each.reshape(5, -1), peaks[name].reshape(5, -1)
        np.testing.assert_allclose(held.max(axis=1), rows.max(axis=1), rtol=1e-5, atol=1e-6)
        if name != "r1":
            np.testing.assert_allclose(held.min(axis=1), rows.min(axis=1), rtol=1e-5, atol=1e-6)


def test_peaks_of_sequences_and_maps_in_one_model(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["map"]),
        helper.make_node("Reshape", ["map", "shape"], ["line"]),
        helper.make_node("Exp", ["line"], ["long"]),
        helper.make_node("ReduceSum", ["long"], ["y"], keepdims=1),
    ]
    held = [numpy_helper.from_array(np.array([0, 4, 36], np.int64), "shape")]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 6, 6])
    exit_ = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1])
    graph = helper.make_graph(nodes, "graph", [entry], [exit_], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    images = np.random.default_rng(0).normal(size=(3, 4, 6, 6)).astype(np.float32)
    seen = expose(tmp_path / "m.onnx", peaks=True)({"x": images})
    assert (seen["map"].max(), seen["map"].min()) == (-images.min(), -images.max())
    assert seen["line"].shape == seen["long"].shape == (3, 12)
    np.testing.assert_allclose([seen["long"].min(), seen["long"].max()], np.exp([-images.max(), -images.min()]), 1e-6)


def test_large_maps_take_smaller_batches_with_peaks_too(tmp_path: Path) -> None:
    nodes = [helper.make_node("Tanh", ["x" if i == 0 else f"t{i}"], [f"t{i + 1}" if i < 4 else "m"]) for i in range(5)]
    nodes.append(helper.make_node("ReduceMean", ["m"], ["y"], axes=[1, 2, 3], keepdims=0))
    model = model_of(tmp_path / "m.onnx", nodes, ["n", 16, 256, 256], ["n"])
    exposed = expose(model, peaks=True)
    assert exposed.batched
    assert exposed.inside == 5 * 4 * 16 * 256 * 256
    sizes = [
        len(seen["x"]) for seen in each_batch(exposed, ArraySamples(np.zeros((8, 16, 256, 256), np.float32)), dict)
    ]
    assert sizes == [1] * 8


def test_no_samples_is_an_error(tmp_path: Path) -> None:
    class Nothing(ArraySamples):
        def batches(self, size: int) -> Iterator[Float32]:
            return iter(())

    with pytest.raises(BadData, match="0 calibration samples, but should be at least 1"):
        statistics(small_model(tmp_path / "m.onnx"), Nothing(IMAGES.inputs))


@pytest.mark.parametrize("fixed", [1, 16])
def test_a_fixed_batch_is_kept_and_filled_up(fixed: int, tmp_path: Path) -> None:
    free = collect(observe(small_model(tmp_path / "m.onnx"), IMAGES))
    held = collect(observe(small_model(tmp_path / "f.onnx", fixed), IMAGES))
    for name, each in free.items():
        assert held[name].count == each.count
        assert held[name].max == pytest.approx(each.max, rel=1e-5)


def test_errors_name_the_model_the_tensor_and_the_sample(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(BadModel, match=r"bad\.onnx: not an ONNX model"):
        next(observe(tmp_path / "bad.onnx", IMAGES))
    model = small_model(tmp_path / "m.onnx")
    with pytest.raises(BadData, match=r"m\.onnx: does not run with x float32 \(1, 3, 9, 9\) \("):
        next(observe(model, ArraySamples(np.ones((1, 3, 9, 9), np.float32))))
    images = np.ones((9, 3, 8, 8), np.float32)
    images[6] = np.inf
    for look in (statistics, extremes):
        with pytest.raises(BadData, match="tensor 'x': infinite on calibration sample 6, but should be finite"):
            look(model, ArraySamples(images))
    with pytest.raises(BadData, match="tensor 'x': infinite on calibration sample 86, but should be finite"):
        extremes(model, ArraySamples(np.concatenate([images[:1]] * 80 + [images])))
