"""Weight ranges, patches, and the correction of weights and biases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptq.calibration.patches import Moments, Sums, Window, load_moments, save_moments
from ptq.errors import BadData
from ptq.quantization import weights
from ptq.quantization.gptq import bias_shift, round_weights
from ptq.quantization.quantizer import Quantizer


@given(st.integers(0, 2**32), st.sampled_from([None, 0, 1, -1]), st.sampled_from([-5.0, 0.0, 5.0]))
def test_a_weights_range_holds_it_and_zero(seed: int, axis: int | None, shift: float) -> None:
    array = (np.random.default_rng(seed).laplace(size=(5, 3, 2, 4)) + shift).astype(np.float32)
    rows = array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    low, high = weights.ranges(array, axis)
    assert low.shape == high.shape == (() if axis is None else (len(rows),))
    assert (np.atleast_1d(low) == np.minimum(rows.min(axis=1), 0)).all()
    assert (np.atleast_1d(high) == np.maximum(rows.max(axis=1), 0)).all()


@pytest.mark.parametrize(
    ("groups", "kernel", "strides", "dilations", "pads"),
    [
        (1, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
        (2, (3, 2), (2, 1), (1, 2), (0, 1, 2, 0)),
        (4, (1, 1), (2, 2), (1, 1), (0, 0, 0, 0)),
    ],
)
def test_patches_times_weights_is_onnxs_convolution(
    groups: int, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...], pads: tuple[int, ...]
) -> None:
    reference = pytest.importorskip("onnx.reference", reason="compares with onnx's reference convolution")
    from onnx import TensorProto, helper

    generator = np.random.default_rng(0)
    images = generator.normal(size=(2, 4, 7, 8)).astype(np.float32)
    filters = generator.normal(size=(8, 4 // groups, *kernel)).astype(np.float32)
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], group=groups, strides=strides, dilations=dilations, pads=pads, kernel_shape=kernel
    )
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "w", "y")]
    model = helper.make_model(helper.make_graph([node], "g", values[:2], values[2:]))
    want = reference.ReferenceEvaluator(model).run(None, {"x": images, "w": filters})[0]
    window = Window(kernel, strides, dilations, pads[:2], pads[2:], groups)
    patches = window.patches(images, most=10**6, first=0)
    rows = filters.reshape(groups, 8 // groups, -1)
    have = np.einsum("gok,gnk->gon", rows, patches).reshape(8, 2, -1).swapaxes(0, 1)
    assert np.allclose(have.reshape(want.shape), want, atol=1e-4)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 1000))
def test_chosen_patches_depend_on_the_image_not_on_its_batch(most: int, cut: int, first: int) -> None:
    images = np.random.default_rng(0).normal(size=(6, 2, 6, 6)).astype(np.float32)
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    whole = window.patches(images, most, first)
    parts = [window.patches(images[:cut], most, first), window.patches(images[cut:], most, first + cut)]
    assert np.array_equal(whole, np.concatenate(parts, axis=1))
    assert whole.shape == (1, 6 * min(most, 36), 18)


def moments_of(inputs: np.ndarray) -> Moments:
    so_far = Sums()
    for start in range(0, len(inputs), 100):
        so_far.add(inputs[None, start : start + 100])
    return so_far.finish()


@pytest.mark.parametrize("quantizer", [Quantizer(8, True, True), Quantizer(4, True, True), Quantizer(4)])
def test_correction_lowers_the_error_of_the_layers_output(quantizer: Quantizer) -> None:
    generator = np.random.default_rng(3)
    mixing = generator.normal(size=(24, 24))
    inputs = np.maximum(generator.normal(size=(3000, 24)) @ mixing + 1.0, 0).astype(np.float32)
    rows = generator.normal(size=(8, 24)).astype(np.float32)
    scale, zero_point = quantizer.grids(*weights.ranges(rows, 0))
    nearest = quantizer.dequantize(
        quantizer.quantize(rows, scale[:, None], zero_point[:, None]), scale[:, None], zero_point[:, None]
    )
    seen = moments_of(inputs[:2000])
    rounded = round_weights(rows, quantizer, scale, zero_point, seen)
    fresh = inputs[2000:].astype(np.float64)

    def lost(other: np.ndarray, shift: np.ndarray | float) -> float:
        return float(np.square(fresh @ (rows - other).T.astype(np.float64) - shift).mean())

    assert lost(nearest, bias_shift(rows, nearest, seen)) < lost(nearest, 0.0)
    assert lost(rounded, bias_shift(rows, rounded, seen)) < 0.8 * lost(nearest, bias_shift(rows, nearest, seen))
    steps = (rounded - 0.0) / scale[:, None] + zero_point[:, None]
    assert np.allclose(steps, np.rint(steps), atol=1e-3)
    assert steps.min() >= quantizer.qmin - 1e-3
    assert steps.max() <= quantizer.qmax + 1e-3
    # an input that never varies must not make it fail
    still = moments_of(np.ones((50, 24), np.float32))
    assert np.isfinite(round_weights(rows, quantizer, scale, zero_point, still)).all()


def test_moments_survive_the_file_and_give_the_same_bytes(tmp_path: Path) -> None:
    varied = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    seen = {"b": moments_of(varied), "a": moments_of(np.ones((3, 2), np.float32))}
    for name in ("one.npz", "two.npz"):
        save_moments(tmp_path / name, seen)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    again = load_moments(tmp_path / "one.npz")
    assert set(again) == {"a", "b"}
    assert np.allclose(again["b"].covariance, seen["b"].covariance, rtol=1e-6, atol=1e-9)
    for content in (b"", b"PK no", (tmp_path / "one.npz").read_bytes()[:300]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(BadData, match=r"bad\.npz: cannot be read as moments"):
            load_moments(tmp_path / "bad.npz")
