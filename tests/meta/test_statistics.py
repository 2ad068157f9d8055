"""Statistics do not know how the images came: batches, order, halves; and what they hold is exact."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ptq.calibration.histogram import HALF, Histogram, exponent_for
from ptq.calibration.statistics import TensorStatistics, collect, merge, span
from ptq.data.samples import Float32
from ptq.errors import BadData

SCALES = st.sampled_from([1e-44, 1e-38, 1e-20, 1e-6, 1.0, 255.0, 1e12, 1e30, 3e38])


@st.composite
def tensors(draw: st.DrawFn) -> Float32:
    """Images of one tensor: any shape, scale and mix of scales, zeros, constants and denormals included."""
    shape = draw(st.sampled_from([(1, 1), (5, 1), (7, 3), (4, 2, 3, 3), (3, 40_000), (6, 16_384), (9, 700)]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "relu", "constant", "zero", "mixed", "heavy"]))
    scale = draw(SCALES)
    values = generator.normal(size=shape)
    if kind == "relu":
        values = np.maximum(values, 0)
    elif kind == "constant":
        values = np.full(shape, draw(st.sampled_from([-1.0, 1.0, 0.3])))
    elif kind == "zero":
        values = np.zeros(shape)
    elif kind == "mixed":
        values *= 10.0 ** generator.integers(-30, 1, size=(shape[0],) + (1,) * (len(shape) - 1))
    elif kind == "heavy":
        values = generator.standard_cauchy(size=shape)
    limit = float(np.finfo(np.float32).max)
    return np.clip(values * scale, -limit, limit).astype(np.float32)


def split(images: Float32, cuts: list[int]) -> Iterator[dict[str, Float32]]:
    edges = sorted({0, len(images), *(each % (len(images) + 1) for each in cuts)})
    for start, stop in itertools.pairwise(edges):
        yield {"x": images[start:stop]}


def same(a: TensorStatistics, b: TensorStatistics) -> bool:
    return (
        (a.min, a.max, a.count) == (b.min, b.max, b.count)
        and a.histogram.exponent == b.histogram.exponent
        and np.array_equal(a.histogram.counts, b.histogram.counts)
    )


@given(tensors(), st.lists(st.integers(0, 10), max_size=4), st.randoms(use_true_random=False))
def test_batches_and_order_change_no_bit(images: Float32, cuts: list[int], random: object) -> None:
    whole = collect(split(images, []))["x"]
    assert same(whole, collect(split(images, cuts))["x"])
    order = list(range(len(images)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert same(whole, collect(split(images[order], cuts))["x"])


@given(tensors(), st.integers(1, 8))
def test_two_halves_merge_into_the_whole(images: Float32, cut: int) -> None:
    assume(len(images) > 1)
    cut = cut % (len(images) - 1) + 1
    first, second = collect([{"x": images[:cut]}])["x"], collect([{"x": images[cut:]}])["x"]
    whole = collect([{"x": images}])["x"]
    assert same(first + second, whole)
    assert same(second + first, whole)


@given(tensors(), st.lists(st.integers(0, 10), max_size=4))
def test_the_lighter_pass_finds_the_same_extremes(images: Float32, cuts: list[int]) -> None:
    whole, light = collect(split(images, cuts))["x"], merge(map(span, split(images, cuts)))["x"]
    assert (light.min, light.max) == (whole.min, whole.max)
    assert light.lowest == int(images.reshape(len(images), -1).min(axis=1).argmin())
    assert light.highest == int(images.reshape(len(images), -1).max(axis=1).argmax())


@given(tensors())
def test_what_they_hold(images: Float32) -> None:
    seen = collect([{"x": images}])["x"]
    assert seen.min == float(images.min())
    assert seen.max == float(images.max())
    assert seen.count == images.size == seen.histogram.count
    double = images.astype(np.float64)
    # each value is less than a bin from its bin's middle
    rms = math.sqrt(math.fsum(np.square(double).ravel()) / images.size)
    assert seen.histogram.rms == pytest.approx(rms, abs=seen.histogram.width)


@given(tensors())
def test_every_value_is_in_its_bin(images: Float32) -> None:
    seen = collect([{"x": images}])["x"].histogram
    assert seen.exponent == exponent_for(float(np.abs(images).max()))
    k = np.trunc(images.astype(np.float64).ravel() / seen.width).astype(np.int64)
    assert np.array_equal(seen.counts, np.bincount(k + HALF, minlength=2 * HALF))
    used = seen.counts > 0
    assert seen.lefts[used].min() <= images.min()
    assert images.max() <= seen.rights[used].max()


@given(hnp.arrays(np.int64, 2 * HALF, elements=st.integers(0, 3), fill=st.just(0)), st.integers(0, 20))
def test_doubling_the_width_loses_nothing(counts: np.ndarray, doublings: int) -> None:
    counts[0] = 0
    fine = Histogram(counts, -3)
    coarse = fine.coarser(doublings - 3)
    k = np.repeat(np.arange(-HALF, HALF), counts)
    again = np.bincount(np.trunc(k / 2.0**doublings).astype(np.int64) + HALF, minlength=2 * HALF)
    assert np.array_equal(coarse.counts, again)


@pytest.mark.parametrize(("bad", "what"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_a_value_that_is_not_finite_names_the_tensor_and_the_image(bad: float, what: str) -> None:
    images = np.ones((7, 4, 4), np.float32)
    images[5, 2, 1] = bad
    batches = [{"conv": images[start : start + 2], "ok": np.ones((2, 1), np.float32)} for start in range(0, 7, 2)]
    with pytest.raises(BadData, match=rf"tensor 'conv': {what} on calibration sample 5, but should be finite"):
        collect(batches)
    with pytest.raises(BadData, match=rf"tensor 'conv': {what} on calibration sample 5, but should be finite"):
        merge(map(span, batches))


def test_a_batch_is_let_go_before_the_next_large_one_is_made() -> None:
    alive: list[weakref.ref[Float32]] = []

    def batches() -> Iterator[dict[str, Float32]]:
        for _ in range(4):
            assert not any(each() is not None for each in alive)
            batch = {name: np.ones((1, 2_000_000), np.float32) for name in "xy"}
            alive.extend(weakref.ref(each) for each in batch.values())
            yield batch
            del batch

    collect(batches())
    assert len(alive) == 8


def test_the_tensors_keep_their_names_and_a_sample_its_own_index() -> None:
    batches = [{"b": np.ones((3, 2), np.float32), "a": np.ones((3,), np.float32)}] * 2
    found = collect(batches)
    assert list(found) == ["a", "b"]
    assert found["a"].count == 6
    assert found["b"].histogram.rms == pytest.approx(1.0, abs=1e-3)
    bad = [*batches, {"b": np.full((1, 2), np.nan, np.float32)}]
    order = np.array([1, 0, 2, 4, 3, 5, 9])  # by shape, say
    for look in (lambda: collect(bad, order), lambda: merge(map(span, bad), order)):
        with pytest.raises(BadData, match="tensor 'b': NaN on calibration sample 9, but"):
            look()
