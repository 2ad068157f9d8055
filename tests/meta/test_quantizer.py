"""The quantizer's grid: its bounds, its error, its zero, and onnxruntime's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptq.quantization.quantizer import Quantizer

QUANTIZERS = st.builds(Quantizer, bits=st.integers(2, 16), signed=st.booleans(), symmetric=st.booleans())
LARGE = float(np.float32(1e30))
FLOATS = st.floats(-LARGE, LARGE, width=32)


@given(QUANTIZERS, st.tuples(FLOATS, FLOATS), st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_inside_the_range_the_error_is_at_most_half_a_step(
    quantizer: Quantizer, bounds: tuple[float, float], shares: list[float]
) -> None:
    low, high = min(0.0, *bounds), max(0.0, *bounds)
    values = (low + np.array(shares) * (high - low)).astype(np.float32)
    scale, _ = quantizer.parameters(low, high)
    if high - low < 1e-30:
        return  # below float32's normal scales the grid is onnxruntime's stand-in
    error = np.abs(quantizer.simulate(values, low, high).astype(np.float64) - values)
    rounding = 1e-6 * max(-low, high) + 1e-3 * float(scale)
    assert error.max() <= float(scale) / 2 + rounding


@given(QUANTIZERS, FLOATS, FLOATS)
def test_zero_is_exact_and_the_zero_point_on_the_grid(quantizer: Quantizer, a: float, b: float) -> None:
    scale, zero_point = quantizer.parameters(min(a, b), max(a, b))
    assert quantizer.qmin <= zero_point <= quantizer.qmax
    assert scale > 0
    assert quantizer.simulate(np.zeros(1, np.float32), min(a, b), max(a, b))[0] == 0.0


@given(st.integers(2, 16), st.lists(FLOATS, min_size=1, max_size=30))
def test_symmetric_signed_is_an_odd_function(bits: int, values: list[float]) -> None:
    quantizer = Quantizer(bits, signed=True, symmetric=True)
    array = np.array(values, np.float32)
    bound = float(np.abs(array).max())
    forth, back = quantizer.simulate(array, -bound, bound), quantizer.simulate(-array, -bound, bound)
    assert np.array_equal(forth, -back)
    assert quantizer.qmin == -quantizer.qmax
    assert quantizer.parameters(-bound, bound / 2) == quantizer.parameters(-bound / 2, bound)


@given(QUANTIZERS, st.lists(FLOATS, min_size=1, max_size=30), FLOATS, FLOATS)
def test_integers_stay_on_the_grid_and_survive_the_round_trip(
    quantizer: Quantizer, values: list[float], a: float, b: float
) -> None:
    scale, zero_point = quantizer.parameters(min(a, b), max(a, b))
    integers = quantizer.quantize(np.clip(np.array(values, np.float32), min(a, b), max(a, b)), scale, zero_point)
    assert integers.min() >= quantizer.qmin
    assert integers.max() <= quantizer.qmax
    real = quantizer.dequantize(integers, scale, zero_point)
    assert np.array_equal(quantizer.quantize(real, scale, zero_point), integers)


@pytest.mark.parametrize(
    ("bits", "signed", "symmetric", "span"),
    [
        (8, False, False, (0, 255)),
        (8, True, False, (-128, 127)),
        (8, True, True, (-127, 127)),
        (2, True, True, (-1, 1)),
        (16, False, False, (0, 65535)),
        (4, True, False, (-8, 7)),
    ],
)
def test_spans(bits: int, signed: bool, symmetric: bool, span: tuple[int, int]) -> None:
    quantizer = Quantizer(bits, signed, symmetric)
    assert (quantizer.qmin, quantizer.qmax) == span
    assert quantizer.levels == span[1] - span[0] + 1


@pytest.mark.parametrize("bits", [1, 0, 17, -8])
def test_bits_outside_2_to_16_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=rf"bits={bits}, but should be in 2..16"):
        Quantizer(bits)


@given(FLOATS, FLOATS, st.sampled_from([(False, False), (True, False), (True, True)]))
def test_scale_and_zero_point_are_onnxruntimes_own(a: float, b: float, kind: tuple[bool, bool]) -> None:
    utils = pytest.importorskip("onnxruntime.quantization.quant_utils", reason="compares with onnxruntime")
    quantizer = Quantizer(8, *kind)
    dtype = np.int8 if quantizer.signed else np.uint8
    zero_point, scale = utils.compute_scale_zp(
        np.float32(min(a, b)),
        np.float32(max(a, b)),
        np.array(quantizer.qmin, dtype),
        np.array(quantizer.qmax, dtype),
        quantizer.symmetric,
    )
    ours, zero = quantizer.parameters(min(a, b), max(a, b))
    assert ours == np.float32(scale)
    assert zero == int(zero_point)
