"""ptq.checks.float_accuracy.fault: a float model that is no reference is seen, and a good one is left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ptq.backends.protocol import Predictor
from ptq.checks.float_accuracy import fault
from ptq.data.batch import Batch, only
from ptq.data.contract import InputContract
from ptq.data.samples import ArraySamples

CLASSES, SHAPE = 5, (8, 8, 3)
RANDOM = np.random.default_rng(5)
TEMPLATES = np.clip(np.array((150, 110, 70)) + RANDOM.normal(0, 60, (CLASSES, *SHAPE)), 0, 255)
LABELS = np.arange(600, dtype=np.int64) % CLASSES
PIXELS = np.clip(TEMPLATES[LABELS] + RANDOM.normal(0, 90, (600, *SHAPE)), 0, 255).astype(np.float32)


def nearest(batch: Batch) -> Batch:
    """The nearest template of raw 0..255 images, NHWC."""
    far = ((only(batch)[:, None].astype(np.float64) - TEMPLATES) ** 2).mean(axis=(2, 3, 4))
    return {"p": (-far).astype(np.float32)}


def images(inputs: np.ndarray, labels: np.ndarray | None = LABELS) -> ArraySamples:
    return ArraySamples({"x": inputs}, labels)


def test_a_good_model_is_left_alone_and_costs_one_look() -> None:
    calls: list[int] = []

    def counted(batch: Batch) -> Batch:
        calls.append(len(only(batch)))
        return nearest(batch)

    assert fault(counted, images(PIXELS), {}) is None
    assert sum(calls) == 200  # so few are wrong that no slip can explain them: none is tried
    assert fault(nearest, images(PIXELS[:3], LABELS[:3]), {}) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x / 255, "likely cause: divided by 255"),
        (lambda x: x / 127.5 - 1, "likely cause: scaled to -1..1"),
        (lambda x: x[..., ::-1], "likely cause: BGR where RGB should be"),
        (lambda x: 255 - x, "likely cause: inverted"),
        (lambda x: x.swapaxes(1, 2), "likely cause: height and width swapped"),
        (lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape), "likely cause: colour planes reshaped"),
    ],
)
def test_a_slip_is_named_without_any_contract(change: Callable[[np.ndarray], np.ndarray], told: str) -> None:
    said = fault(nearest, images(np.ascontiguousarray(change(PIXELS), np.float32)), {})
    assert said is not None
    assert told in said
    assert "when one slip is undone" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("scale", "told"), [(lambda x: 255 * x, "not divided by 255"), (lambda x: 127.5 * (x + 1), "not scaled to -1..1")]
)
def test_a_scaling_slip_is_named_of_any_float_input(scale: Callable[[np.ndarray], np.ndarray], told: str) -> None:
    """Vectors of 6 numbers in -1..1: what a layout is needed for is not tried."""
    centres = RANDOM.uniform(-1, 1, (CLASSES, 6))
    inputs = (centres[LABELS] + RANDOM.normal(0, 0.1, (600, 6))).astype(np.float32)
    if told == "not divided by 255":
        centres, inputs = np.abs(centres), np.abs(inputs)

    def model(batch: Batch) -> Batch:
        return {"p": -((only(batch)[:, None] - centres) ** 2).sum(axis=2)}

    assert fault(model, images(inputs), {}) is None
    said = fault(model, images(scale(inputs).astype(np.float32)), {"x": InputContract((None, 6))})
    assert said is not None
    assert said.endswith(f"likely cause: {told}")


def test_a_set_that_goes_round_its_classes_is_not_looked_at_in_step() -> None:
    """Of 1000 samples 200 are looked at: every fifth would be of class 0, which class order alone shows nothing of."""
    swapped = np.array([0, 2, 1, 4, 3])[np.tile(LABELS[:500], 2)]
    said = fault(nearest, images(np.concatenate([PIXELS[:500], PIXELS[:500]]), swapped), {})
    assert "classes in another order, e.g. label 1 is the model's output 2" in str(said)


def test_shuffled_labels_are_no_better_than_chance() -> None:
    said = fault(nearest, images(PIXELS, RANDOM.permutation(LABELS)), {})
    assert said is not None
    assert "on 600 samples, no better than chance (0.2000); likely cause: shuffled labels" in said


def test_other_classes_are_told() -> None:
    assert "classes in another order" in str(fault(nearest, images(PIXELS, (LABELS + 1) % CLASSES), {}))
    assert "labels span 1..5, but should lie in 0..4" in str(fault(nearest, images(PIXELS, LABELS + 1), {}))


def weak(share: float) -> Predictor:
    """A model of two classes that is right on about so many samples; its input is the index, an integer: no slip."""
    right = RANDOM.random(4000) < share

    def predict(batch: Batch) -> Batch:
        index = only(batch)[:, 0]
        decided = np.where(right[index], index % 2, 1 - index % 2)
        return {"p": np.eye(2, dtype=np.float32)[decided]}

    return predict


def test_a_weak_model_is_not_blamed_for_chance() -> None:
    """56 % of 200 images could be chance; of 2000 it is not."""
    samples = ArraySamples({"x": np.arange(4000)[:, None]}, np.arange(4000) % 2)
    assert fault(weak(0.56), samples, {}) is None
    assert "no better than chance" in str(fault(weak(0.5), samples, {}))
    few = ArraySamples({"x": np.arange(9)[:, None]}, np.arange(9) % 2)
    assert fault(weak(0.8), few, {}) is None


@pytest.mark.parametrize("targets", [None, LABELS.astype(np.float32)[:, None], LABELS])
def test_the_same_answer_to_everything_is_a_fault_of_any_model(targets: np.ndarray | None) -> None:
    def constant(batch: Batch) -> Batch:
        count = len(only(batch))
        return {"a": np.full((count, 7), 0.5, np.float32), "b": np.ones((count, 2, 2), np.float32)}

    said = fault(constant, images(PIXELS, targets), {}, classifies=False)
    assert said is not None
    assert said.startswith("the float model says the same of every one of 200 samples")
    assert "same of every one" in str(fault(constant, images(PIXELS), {}))

    def half(batch: Batch) -> Batch:
        return {**constant(batch), "b": only(batch)}

    assert fault(half, images(PIXELS, targets), {}, classifies=False) is None
    late = np.ones((600, 2), np.float32)
    late[150:] = 2  # nothing to be seen on 150 images is not nothing on all
    assert fault(lambda batch: dict(batch), images(late, targets), {}, classifies=False) is None
    assert fault(constant, images(PIXELS[:5], None), {}, classifies=False) is None


def test_integer_targets_of_a_metric_of_ones_own_are_no_classes() -> None:
    """An age, or the identity behind an embedding: the largest output names neither."""
    assert fault(nearest, images(PIXELS, RANDOM.permutation(LABELS) + 40), {}, classifies=False) is None


def test_one_class_one_image_and_one_decision_are_faults() -> None:
    one = PIXELS[LABELS == 2]
    assert "every one of 120 labels is 2" in str(fault(nearest, images(one, np.full(120, 2)), {}))
    again = np.tile(PIXELS[:4], (150, 1, 1, 1))
    assert "only 4 of 200 samples are different" in str(fault(nearest, images(again, np.tile(LABELS[:4], 150)), {}))
    assert fault(nearest, images(again, np.tile(LABELS[:4], 150)), {}, distinct=False) is None

    def majority(batch: Batch) -> Batch:
        return {"p": nearest(batch)["p"] * np.float32(1e-9) + np.eye(CLASSES, dtype=np.float32)[0]}

    rare = np.where(LABELS == 1, 1, 0)
    assert "decides for class 0 on every one of 600 samples" in str(fault(majority, images(PIXELS, rare), {}))


def test_samples_of_different_shape_keep_their_labels() -> None:
    """Rows come sorted by shape, labels in the order of the samples."""
    generator = np.random.default_rng(8)
    labels = generator.integers(0, 2, 300)
    sentences = [np.full(int(generator.integers(1, 5)), 2.0 * label - 1, np.float32) for label in labels]

    def model(batch: Batch) -> Batch:
        total = only(batch).sum(axis=1)
        return {"p": np.stack([-total, total], axis=1)}

    assert fault(model, ArraySamples({"x": sentences}, labels), {}) is None
    assert "classes in another order" in str(fault(model, ArraySamples({"x": sentences}, 1 - labels), {}))


def test_a_detector_is_looked_at_no_longer_than_it_takes() -> None:
    """One image a call by contract, as large images are read, and two calls to see two answers."""
    calls: list[int] = []

    def detector(batch: Batch) -> Batch:
        calls.append(len(only(batch)))
        return {"boxes": only(batch)[:, :2]}

    assert fault(detector, images(PIXELS, None), {"x": InputContract((1, *SHAPE))}, classifies=False) is None
    assert calls == [1, 1]
