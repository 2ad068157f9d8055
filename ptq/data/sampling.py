"""Sampling: which images calibrate. Drawn once a workload, stratified, in an order that survives truncation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptq.data.images import Images
from ptq.data.samples import ArraySamples, Labels, Samples
from ptq.errors import BadData

PER_CLASS = 100
SEED = 42


def stratified(
    labels: Labels, per_class: int = PER_CLASS, seed: int = SEED, classes: int | None = None
) -> npt.NDArray[np.int64]:
    """Indices of exactly `per_class` rows of every class, shape (classes * per_class,), int64.

    The order is a shuffle made of rounds, each with one row of every class: in the first m indices, whatever m,
    the counts of two classes differ by at most 1. Several tools read only the first 100 or 300 calibration images.

    A pure function of its arguments: each call has a generator of its own, so no draw depends on an earlier one.

    Parameters
    ----------
    labels: class indices, shape (N,).
    classes: how many classes there are, 0..classes-1; by default those that occur in `labels`.

    Raises `BadData` when there are fewer than `per_class` rows of a class, with the counts.
    """
    if per_class < 1:
        raise BadData(f"per_class={per_class}, but should be at least 1")
    if seed < 0:
        raise BadData(f"seed={seed}, but should be 0 or more")
    known = np.unique(labels) if classes is None else np.arange(classes)
    counts = {int(each): int((labels == each).sum()) for each in known}
    if not counts or min(counts.values()) < per_class:
        raise BadData(
            f"{per_class} rows of every class are wanted, but there are {counts} (class: rows); "
            "draw fewer a class or bring more data"
        )
    generator = np.random.default_rng(seed)
    drawn = np.stack([generator.permutation(np.flatnonzero(labels == each))[:per_class] for each in known], axis=1)
    # drawn has a round a row; shuffle each on its own.
    return generator.permuted(drawn, axis=1).reshape(-1).astype(np.int64)


def calibration_samples(images: Images, per_class: int = PER_CLASS, seed: int = SEED) -> ArraySamples:
    """The calibration set: `per_class` images of every class, drawn by `stratified`, with the seed on it.

    A workload draws it once; every case reads the same object. Raises `BadData` as `stratified` does.
    """
    try:
        chosen = stratified(images.labels, per_class, seed, classes=len(images.class_names))
    except BadData as error:
        raise BadData(f"{images.name}: {error}") from error
    return ArraySamples(
        inputs=images.pixels[chosen],
        targets=images.labels[chosen],
        class_names=images.class_names,
        seed=seed,
        name=f"{images.name}, {per_class} a class",
    )


def evaluation_samples(images: Images) -> ArraySamples:
    """Every image, in order."""
    return ArraySamples(images.pixels, images.labels, images.class_names, name=images.name)


def assert_disjoint(calibration: Samples, evaluation: Samples) -> None:
    """Raise `BadData` when an input occurs in both, byte for byte; it counts them and names the first pair."""
    first: dict[str, int] = {}
    for index, each in enumerate(calibration.hashes()):
        first.setdefault(each, index)
    shared = [(first[each], index) for index, each in enumerate(evaluation.hashes()) if each in first]
    if shared:
        raise BadData(
            f"{len(shared)} of {len(evaluation)} evaluation images are calibration images too, but none should be; "
            f"the first: calibration[{shared[0][0]}] == evaluation[{shared[0][1]}]; "
            "likely cause: calibration images drawn from the test split"
        )
