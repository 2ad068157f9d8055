"""Float accuracy as a check of preprocessing: a misread image shows in what the float model makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from ptq.backends.protocol import Predictor
from ptq.contract import InputContract
from ptq.errors import BadData
from ptq.readings import READINGS
from ptq.samples import Float32, Labels, Samples

LIMIT = 500
"""Samples of a set that are looked at, at most."""
GAP = 0.15
"""How much better a usable model may be on what it was trained on than on what it was not."""
SIGMAS = 4.0
"""Standard errors beyond which a difference is none of chance."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a float model decided on a set: `decided` and `labels`, shape (n,), of `classes` classes."""

    decided: npt.NDArray[np.int64]
    labels: Labels
    classes: int

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        right: npt.NDArray[np.bool_] = self.decided == self.labels
        return right

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def variance(self) -> float:
        """Of `accuracy`; Agresti and Coull's, so that it is not 0 at 0 % or 100 %."""
        n = len(self.labels) + 4
        p = (self.right.sum() + 2) / n
        return float(p * (1 - p) / n)


def check_accuracy(predict: Predictor, sets: Mapping[str, Samples], contract: InputContract) -> None:
    """Raise `BadData` unless a float model's top-1 is right, as far as it can be told without knowing it.

    For up to `LIMIT` samples of every set: top-1 is above chance, no slip of `READINGS` undone makes it better,
    no other order of the classes does, and two sets differ by at most `GAP`, all beyond `SIGMAS` standard errors. The
    message names the slip that explains most; where undoing none helps, the labels are suspected.
    """
    seen: dict[str, Seen] = {}
    for name, samples in sets.items():
        assert samples.labels is not None  # the caller's check
        step = -(-len(samples) // LIMIT)
        inputs, labels = _every(samples, step), samples.labels[::step]
        seen[name] = _seen(predict, inputs, labels)
        slips = _slips(seen[name], predict, inputs, contract, samples.class_names)
        cause, best = max(slips, key=lambda slip: slip[1].accuracy)
        if _better(best, seen[name]):
            raise BadData(
                f"{name}: the float model's top-1 is {seen[name].accuracy:.4f}, but {best.accuracy:.4f} when one slip "
                f"is undone; likely cause: {cause}"
            )
        chance = 1 / seen[name].classes
        if seen[name].accuracy <= chance + SIGMAS * np.sqrt(chance * (1 - chance) / len(labels)):
            raise BadData(
                f"{name}: the float model's top-1 is {seen[name].accuracy:.4f} on {len(labels)} samples, no better "
                f"than chance ({chance:.4f}); likely cause: shuffled labels, or another model's classes"
            )
    ranked = sorted(seen.items(), key=lambda item: item[1].accuracy)
    (low, worse), (high, better) = ranked[0], ranked[-1]
    allowed = GAP + SIGMAS * np.sqrt(worse.variance + better.variance)
    if better.accuracy - worse.accuracy > allowed:
        raise BadData(
            f"{low}: the float model's top-1 is {worse.accuracy:.4f}, but should be within {allowed:.2f} of the "
            f"{better.accuracy:.4f} on {high} samples; likely cause: shuffled labels in {low}"
        )


def _every(samples: Samples, step: int) -> Float32:
    """Samples 0, step, 2 step, ...: spread over the set, which may be sorted by class."""
    size = 100
    return np.concatenate(
        [each[-start % step :: step] for start, each in zip(count(0, size), samples.batches(size), strict=False)]
    )


def _seen(predict: Predictor, inputs: Float32, labels: Labels) -> Seen:
    outputs = predict(np.ascontiguousarray(inputs, dtype=np.float32))
    if outputs.ndim != 2 or len(outputs) != len(inputs):
        raise BadData(f"outputs.shape={outputs.shape}, but should be ({len(inputs)}, classes) for a model with labels")
    classes = outputs.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise BadData(
            f"labels span {labels.min()}..{labels.max()}, but should lie in 0..{classes - 1}, the model's outputs; "
            "likely cause: labels that start at 1, or another model's classes"
        )
    return Seen(outputs.argmax(axis=1), labels, classes)


def _slips(
    seen: Seen, predict: Predictor, inputs: Float32, contract: InputContract, names: tuple[str, ...]
) -> Iterator[tuple[str, Seen]]:
    """(likely cause, what the model makes of the samples when it is undone) for every slip."""
    for reading in READINGS:
        undone = reading.undo(inputs, contract)
        if undone is not None:
            yield reading.cause, _seen(predict, undone, seen.labels)
    counts = np.zeros((seen.classes, seen.classes), dtype=np.int64)
    np.add.at(counts, (seen.labels, seen.decided), 1)
    order = counts.argmax(axis=1)
    moved = np.flatnonzero(order != np.arange(seen.classes))
    if len(moved) and sorted(order) == list(range(seen.classes)):
        label = int(moved[0])
        called = f" ({names[label]})" if label < len(names) else ""
        cause = f"classes in another order, e.g. label {label}{called} is the model's output {order[label]}"
        yield cause, Seen(seen.decided, order[seen.labels], seen.classes)


def _better(instead: Seen, seen: Seen) -> bool:
    """Whether `instead` is right more often than `seen`, on the same samples, beyond chance."""
    gained, lost = int((instead.right & ~seen.right).sum()), int((seen.right & ~instead.right).sum())
    return bool(gained - lost > SIGMAS * np.sqrt(gained + lost))
