"""Methods: ranges inside what was seen, zero inside the range, never worse than minmax by their own measure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptq.calibration.statistics import TensorStatistics, collect
from ptq.data.samples import Float32
from ptq.engine.registry import Registry
from ptq.quantization.expected_error import ExpectedError
from ptq.quantization.method import Choose
from ptq.quantization.methods.entropy import divergence
from ptq.quantization.methods.percentile import percentile
from ptq.quantization.quantizer import Quantizer

METHODS = Registry().methods
QUANTIZERS = st.builds(Quantizer, bits=st.integers(2, 16), signed=st.booleans(), symmetric=st.booleans())
SCALES = st.sampled_from([1e-44, 1e-38, 1e-6, 1.0, 255.0, 1e30])


@st.composite
def values(draw: st.DrawFn) -> Float32:
    """One tensor's values: shapes of distributions, degenerate ones included, at every scale."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.sampled_from([1, 2, 50, 5_000]))
    kind = draw(st.sampled_from(["normal", "relu", "shifted", "constant", "zero", "heavy", "two", "negative"]))
    raw = {
        "normal": generator.normal(size=size),
        "relu": np.maximum(generator.normal(size=size), 0),
        "shifted": generator.normal(size=size) + 5,
        "constant": np.full(size, -0.7),
        "zero": np.zeros(size),
        "heavy": np.clip(generator.standard_cauchy(size=size), -1e4, 1e4),
        "two": generator.choice([-1.0, 3.0], size=size),
        "negative": -np.abs(generator.normal(size=size)),
    }[kind]
    return (raw * draw(SCALES)).astype(np.float32)


def statistics(array: Float32) -> TensorStatistics:
    return collect([{"x": array[None]}])["x"]


def method(name: str) -> Choose:
    return METHODS[name].choose


@given(values(), QUANTIZERS, st.sampled_from(sorted(METHODS)))
def test_a_range_is_inside_what_was_seen_and_holds_zero(array: Float32, quantizer: Quantizer, name: str) -> None:
    low, high = method(name)(statistics(array), quantizer)
    assert min(0.0, float(array.min())) <= low <= 0.0 <= high <= max(0.0, float(array.max()))
    assert (low, high) != (0.0, 0.0) or not array.any() or float(np.abs(array).max()) < 1e-37


@given(values(), QUANTIZERS)
def test_minmax_is_the_whole_range(array: Float32, quantizer: Quantizer) -> None:
    assert method("minmax")(statistics(array), quantizer) == (
        min(0.0, float(array.min())),
        max(0.0, float(array.max())),
    )


@given(values(), QUANTIZERS)
def test_mse_is_never_worse_than_minmax(array: Float32, quantizer: Quantizer) -> None:
    seen = statistics(array)
    error = ExpectedError(seen.histogram)
    ranges = np.array([method(name)(seen, quantizer) for name in ("minmax", "mse")])
    whole, best = error(quantizer, ranges[:, 0], ranges[:, 1])
    assert best <= whole


@given(values(), QUANTIZERS)
def test_entropy_never_loses_more_than_minmax(array: Float32, quantizer: Quantizer) -> None:
    seen = statistics(array)
    ranges = np.array([method(name)(seen, quantizer) for name in ("minmax", "entropy")])
    whole, best = divergence(seen, quantizer, ranges[:, 0], ranges[:, 1])
    assert best <= whole


@given(values(), QUANTIZERS, st.lists(st.floats(50, 100), min_size=2, max_size=5))
def test_percentile_is_monotone(array: Float32, quantizer: Quantizer, percents: list[float]) -> None:
    seen = statistics(array)
    ranges = [percentile(each)(seen, quantizer) for each in sorted(percents)]
    assert [low for low, _ in ranges] == sorted((low for low, _ in ranges), reverse=True)
    assert [high for _, high in ranges] == sorted(high for _, high in ranges)


@given(values(), st.sampled_from([90.0, 99.0, 99.9, 99.99, 100.0]), st.booleans())
def test_percentile_is_within_one_bin_of_numpys(array: Float32, percent: float, symmetric: bool) -> None:
    seen = statistics(array)
    low, high = percentile(percent)(seen, Quantizer(signed=symmetric, symmetric=symmetric))
    bin_width, double = seen.histogram.width * (1 + 1e-9), array.astype(np.float64)

    # between two order statistics any value is a percentile
    below, above = (np.percentile(np.abs(double), 50 + percent / 2, method=each) for each in ("lower", "higher"))
    top, bottom = max(0.0, double.max()), min(0.0, double.min())
    assert min(below - bin_width, top) <= high <= min(above + bin_width, top)
    assert max(-above - bin_width, bottom) <= low <= max(-below + bin_width, bottom)


@pytest.mark.parametrize("quantizer", [Quantizer(), Quantizer(8, True, True), Quantizer(4), Quantizer(2, True, True)])
def test_the_expected_error_is_that_of_the_real_quantizer(quantizer: Quantizer) -> None:
    array = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    error = ExpectedError(statistics(array).histogram)
    for low, high in [(-4.0, 4.0), (-1.5, 2.5), (-0.2, 3.0)]:
        real = np.square(array - quantizer.simulate(array, low, high), dtype=np.float64).mean()
        expected = error(quantizer, np.array([low]), np.array([high]))[0]
        assert expected == pytest.approx(real, rel=0.01)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mse_finds_what_a_brute_search_finds(bits: int, symmetric: bool) -> None:
    array = np.random.default_rng(1).laplace(size=20_000).astype(np.float32)
    quantizer = Quantizer(bits, symmetric, symmetric)

    def real(low: float, high: float) -> float:
        return float(np.square(array - quantizer.simulate(array, low, high), dtype=np.float64).mean())

    shares = np.linspace(0.05, 1, 39)
    bottom, top = float(array.min()), float(array.max())
    brute = min(
        real(bottom * a, top * b) if not symmetric else real(-a * max(top, -bottom), a * max(top, -bottom))
        for a in shares
        for b in (shares if not symmetric else shares[:1])
    )
    assert real(*method("mse")(statistics(array), quantizer)) <= brute * 1.02


def test_entropy_clips_a_far_tail_and_minmax_does_not() -> None:
    generator = np.random.default_rng(0)
    array = np.append(np.abs(generator.normal(size=100_000)), 60.0).astype(np.float32)
    low, high = method("entropy")(statistics(array), Quantizer())
    assert low == 0.0
    assert 3.0 < high < 30.0


def test_a_wrong_percentile_is_refused() -> None:
    with pytest.raises(ValueError, match=r"percent=0, but should be in \(0, 100\]"):
        percentile(0)


@given(values(), QUANTIZERS)
def test_a_method_that_corrects_has_the_ranges_of_one_that_does_not(array: Float32, quantizer: Quantizer) -> None:
    seen = statistics(array)
    plain = [each.choose(seen, quantizer) for each in METHODS.values() if not each.corrects]
    for each in METHODS.values():
        assert not each.corrects or each.choose(seen, quantizer) in plain
