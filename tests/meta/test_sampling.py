"""The calibration draw: exact, balanced in every prefix, the same everywhere, disjoint from evaluation."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.data.images import Images
from ptq.data.samples import ArraySamples
from ptq.data.sampling import assert_disjoint, calibration_samples, evaluation_samples, stratified
from ptq.errors import BadData


def images(rows: int = 200, classes: int = 4, seed: int = 0) -> Images:
    generator = np.random.default_rng(seed)
    return Images(
        pixels=generator.integers(0, 256, (rows, 4, 4, 3), dtype=np.uint8),
        labels=np.sort(np.arange(rows) % classes).astype(np.int64),
        class_names=tuple("abcdefghij"[:classes]),
        name="made train",
    )


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(5, 12), min_size=2, max_size=6),
    per_class=st.integers(1, 5),
    seed=st.integers(0, 2**40),
)
def test_exactly_k_per_class_and_every_prefix_near_balanced(counts, per_class, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    drawn = stratified(labels, per_class, seed)
    assert drawn.dtype == np.int64
    assert len(set(drawn.tolist())) == len(drawn) == per_class * len(counts)
    for stop in range(1, len(drawn) + 1):
        seen = np.bincount(labels[drawn[:stop]], minlength=len(counts))
        assert seen.max() - seen.min() <= 1


def test_rounds_are_shuffled_within():
    labels = np.repeat(np.arange(10), 120)
    order = labels[stratified(labels)].reshape(100, 10)
    assert len({tuple(row) for row in order.tolist()}) > 90


def test_draw_depends_on_nothing_but_its_arguments():
    labels = np.repeat(np.arange(10), 120)
    first = stratified(labels, 100, 42)
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    stratified(labels, 50, 7)
    assert np.array_equal(stratified(labels, 100, 42), first)
    assert not np.array_equal(stratified(labels, 100, 43), first)


def test_draw_is_the_same_in_another_process():
    code = (
        "import numpy as np; from ptq.data.sampling import stratified;"
        "print(stratified(np.repeat(np.arange(10), 120)).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other.strip() == str(stratified(np.repeat(np.arange(10), 120)).tolist())


def test_too_few_rows_names_the_counts():
    with pytest.raises(BadData, match=r"^100 rows of every class .* \{0: 120, 1: 99\}"):
        stratified(np.repeat([0, 1], [120, 99]))
    with pytest.raises(BadData, match=r"\{0: 9, 1: 9, 2: 0\}"):
        stratified(np.repeat([0, 1], 9), 5, classes=3)
    with pytest.raises(BadData, match=r"^made train: 51 rows of every class"):
        calibration_samples(images(), per_class=51)


@pytest.mark.parametrize(("per_class", "seed"), [(0, 1), (-1, 1), (1, -1)])
def test_arguments_out_of_range(per_class, seed):
    with pytest.raises(BadData, match="should be"):
        stratified(np.zeros(9, np.int64), per_class, seed)


def test_calibration_samples_carry_what_they_were_drawn_with():
    source = images()
    samples = calibration_samples(source, per_class=10, seed=3)
    chosen = stratified(source.labels, 10, 3)
    assert samples.seed == 3
    assert len(samples) == 40
    assert np.array_equal(
        np.concatenate([next(iter(batch.values())) for batch in samples.batches(7)]), source.inputs[chosen]
    )
    assert samples.targets.tolist() == source.labels[chosen].tolist()
    assert samples.digest == calibration_samples(source, per_class=10, seed=3).digest
    assert samples.digest != calibration_samples(source, per_class=10, seed=4).digest


def test_overlap_is_counted_and_the_first_pair_named():
    calibration = calibration_samples(images(seed=1), per_class=5)
    evaluation = evaluation_samples(images(seed=2))
    assert_disjoint(calibration, evaluation)
    leaked = evaluation.inputs.copy()
    leaked[[3, 7]] = calibration.inputs[[11, 2]]
    with pytest.raises(BadData, match=r"^2 of 200 .* calibration\[11\] == evaluation\[3\]; likely cause") as caught:
        assert_disjoint(calibration, ArraySamples(leaked, evaluation.targets))
    assert "\n" not in str(caught.value)
