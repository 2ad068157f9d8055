"""Float accuracy as a check of preprocessing: a misread input shows in what the float model makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from ptq.backends.protocol import Predictor
from ptq.checks.repeats import FEW, one_class, repeated
from ptq.checks.slips import completed, readings
from ptq.data.batch import Array, Batch, as_batch, only, size_of
from ptq.data.contract import InputContract
from ptq.data.samples import Labels, Samples, labels_of, order_of
from ptq.errors import BadData

LIMIT = 500
"""Samples of a set that are looked at, at most."""
GAP = 0.15
"""How much better a usable model may be on what it was trained on than on what it was not."""
SIGMAS = 4.0
"""Standard errors beyond which a difference is none of chance."""
BATCH = 100
"""Samples that are read at a time where no contract fixes it."""


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

    @property
    def chance(self) -> float:
        """The accuracy of a model that guesses."""
        return 1 / self.classes

    @property
    def constant(self) -> bool:
        """Whether the model decides for one class whatever it sees; of labels of one class that says nothing."""
        return len(self.labels) >= FEW and len(set(self.decided)) == 1 and len(set(self.labels)) > 1

    def by_chance(self, sigmas: float) -> float:
        """The accuracy a model that guesses has at most, so many standard errors above `chance`."""
        return self.chance + sigmas * float(np.sqrt(self.chance * (1 - self.chance) / len(self.labels)))


def check_accuracy(predict: Predictor, sets: Mapping[str, Samples], contracts: Mapping[str, InputContract]) -> None:
    """Raise `BadData` unless a float model's top-1 is right, as far as it can be told without knowing it.

    For up to `LIMIT` samples of every set: top-1 is above chance, no slip of `READINGS` undone makes it better,
    no other order of the classes does, and two sets differ by at most `GAP`, all beyond `SIGMAS` standard errors. The
    message names the slip that explains most; where undoing none helps, the labels are suspected.
    """
    seen: dict[str, Seen] = {}
    for name, samples in sets.items():
        batches, labels = list(_spread(samples, LIMIT, batch_size(contracts))), _labels(samples, LIMIT)
        assert labels is not None  # the caller's check
        seen[name] = _seen([predict(batch) for batch in batches], labels)
        if (slip := _slip(seen[name], predict, batches, contracts, samples.class_names)) is not None:
            raise BadData(f"{name}: {slip}")
        if seen[name].constant or seen[name].accuracy <= seen[name].by_chance(SIGMAS):
            raise BadData(f"{name}: {_guesses(seen[name])}")
    ranked = sorted(seen.items(), key=lambda item: item[1].accuracy)
    (low, worse), (high, better) = ranked[0], ranked[-1]
    allowed = GAP + SIGMAS * np.sqrt(worse.variance + better.variance)
    if better.accuracy - worse.accuracy > allowed:
        raise BadData(
            f"{low}: the float model's top-1 is {worse.accuracy:.4f}, but should be within {allowed:.2f} of the "
            f"{better.accuracy:.4f} on {high} samples; likely cause: shuffled labels in {low}"
        )


def fault(
    predict: Predictor,
    samples: Samples,
    contracts: Mapping[str, InputContract],
    limit: int = 200,
    classifies: bool = True,
    distinct: bool = True,
) -> str | None:
    """Why a float model is of no use as a reference on `samples`, in one line; None when it may be.

    `classifies`: the largest value of the first output is the class that the targets name; then, on up to `limit`
    samples spread over the set, top-1 should be above chance, and no slip undone should make it better. Whatever the
    model, it should not say the same of the first `limit` samples; the first that differ end this look. With
    `distinct`, the samples should differ, and the labels be of two classes at least.

    No bar is known here and the answer turns a whole workload red, so a doubt counts for the model: chance is held
    against ten times as many samples before it is blamed.
    """
    labels, size = _labels(samples, limit), batch_size(contracts)
    if labels is None or not classifies:
        first = islice(samples.batches(size), -(-limit // size))
        return _says_the_same(_same(predict(as_batch(batch)) for batch in first))
    if distinct and (same_class := one_class(labels_of(samples))) is not None:
        return same_class
    batches = list(_spread(samples, limit, size))
    outputs = [predict(batch) for batch in batches]
    try:
        seen = _seen(outputs, labels)
    except BadData as error:
        return str(error)
    if (slip := _slip(seen, predict, batches, contracts, samples.class_names)) is not None:
        return slip
    if not seen.right.all() and (same := _same(outputs)):
        return _says_the_same(same)
    if distinct and (few := repeated(batches)) is not None:
        return few
    more = _labels(samples, 10 * limit)
    if _useless(seen) and more is not None and len(more) > len(labels):
        seen = _seen([predict(batch) for batch in _spread(samples, 10 * limit, size)], more)
    return _guesses(seen) if _useless(seen) else None


def _useless(seen: Seen) -> bool:
    """Within 3 standard errors of guessing, which on a few samples is much: then a quarter of the way to perfect."""
    return seen.constant or seen.accuracy <= min(seen.by_chance(3.0), seen.chance + (1 - seen.chance) / 4)


def _guesses(seen: Seen) -> str:
    if seen.constant:
        return (
            f"the float model decides for class {seen.decided[0]} on every one of {len(seen.labels)} samples, whatever "
            "they show; likely cause: inputs in another range than it was trained on, or a model that is not trained"
        )
    return (
        f"the float model's top-1 is {seen.accuracy:.4f} on {len(seen.labels)} samples, no better than chance "
        f"({seen.chance:.4f}); likely cause: shuffled labels, or another model's classes"
    )


def _says_the_same(count: int) -> str | None:
    if not count:
        return None
    return (
        f"the float model says the same of every one of {count} samples; likely cause: inputs in another range than it "
        "was trained on, or inputs that are all the same"
    )


def _same(outputs: Iterable[Batch]) -> int:
    """How many samples there are, when all have the same outputs to the bit; else, or for fewer than `FEW`, 0."""
    one: dict[str, Array] = {}
    count = 0
    for batch in outputs:
        one = one or {name: values[:1] for name, values in batch.items()}
        for name, values in batch.items():
            if values.shape[1:] != one[name].shape[1:] or not (values == one[name]).all():
                return 0
        count += size_of(batch)
    return count if count >= FEW else 0


def batch_size(contracts: Mapping[str, InputContract]) -> int:
    """How many samples to read at a time: as many as a call takes, where that is fixed."""
    fixed = [contract.shape[0] for contract in contracts.values() if contract.shape]
    return next((size for size in fixed if size), BATCH)


def _rows(count: int, limit: int) -> npt.NDArray[np.int64]:
    """Which of `count` rows are looked at, in order: at most `limit`.

    Drawn, because every so-and-so-many-th of a set that goes round its classes would be of one class.
    """
    if count <= limit:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(count).choice(count, limit, replace=False)).astype(np.int64)


def _spread(samples: Samples, limit: int, size: int) -> Iterator[Batch]:
    """At most `limit` samples, spread over a set that may be sorted by class."""
    rows, start = _rows(len(samples), limit), 0
    for given in samples.batches(size):
        batch = as_batch(given)
        stop = start + size_of(batch)
        at = rows[(rows >= start) & (rows < stop)] - start
        if len(at):
            yield {name: values[at] for name, values in batch.items()}
        start = stop


def _labels(samples: Samples, limit: int) -> Labels | None:
    """The labels of what `_spread` gives."""
    labels, order = labels_of(samples), order_of(samples)
    if labels is None:
        return None
    return (labels if order is None else labels[order])[_rows(len(labels), limit)]


def _seen(outputs: Sequence[Batch], labels: Labels) -> Seen:
    rows = [only(batch) for batch in outputs]
    wrong = [values.shape for values in rows if values.ndim != 2 or values.shape[1] != rows[0].shape[-1]]
    if wrong or sum(map(len, rows)) != len(labels):
        shape = wrong[0] if wrong else (sum(map(len, rows)),)
        raise BadData(f"outputs.shape={shape}, but should be (n, classes) for a model with class labels")
    classes = rows[0].shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise BadData(
            f"labels span {labels.min()}..{labels.max()}, but should lie in 0..{classes - 1}, the model's outputs; "
            "likely cause: labels that start at 1, or another model's classes"
        )
    return Seen(np.concatenate([values.argmax(axis=1) for values in rows]), labels, classes)


def _slip(
    seen: Seen,
    predict: Predictor,
    batches: Sequence[Batch],
    contracts: Mapping[str, InputContract],
    names: tuple[str, ...],
) -> str | None:
    """The slip that, undone, makes the model better beyond chance, in words; None when there is none."""
    if (~seen.right).sum() <= SIGMAS**2:  # so few are wrong that not even all of them put right would show
        return None
    cause, best = max(_undone(seen, predict, batches, contracts, names), key=lambda slip: slip[1].accuracy)
    if not _better(best, seen):
        return None
    return (
        f"the float model's top-1 is {seen.accuracy:.4f}, but {best.accuracy:.4f} when one slip is undone; likely "
        f"cause: {cause}"
    )


def _undone(
    seen: Seen,
    predict: Predictor,
    batches: Sequence[Batch],
    contracts: Mapping[str, InputContract],
    names: tuple[str, ...],
) -> Iterator[tuple[str, Seen]]:
    """(likely cause, what the model makes of the samples when it is undone) for every slip of every float input."""
    yield "", seen
    for name, values in batches[0].items():
        if values.dtype.kind != "f":
            continue
        low = min(float(batch[name].min()) for batch in batches)
        high = max(float(batch[name].max()) for batch in batches)
        contract = completed(contracts.get(name), values.shape, low, high)
        where = f"input {name!r} " if len(batches[0]) > 1 else ""
        for reading in readings(values.shape, contract):
            parts = [reading.undo(batch[name], contract) for batch in batches]
            if all(part is not None for part in parts):
                undone = [{**batch, name: _as(part, values)} for batch, part in zip(batches, parts, strict=True)]
                yield where + reading.cause, _seen([predict(batch) for batch in undone], seen.labels)
    counts = np.zeros((seen.classes, seen.classes), dtype=np.int64)
    np.add.at(counts, (seen.labels, seen.decided), 1)
    order = counts.argmax(axis=1)
    moved = np.flatnonzero(order != np.arange(seen.classes))
    if len(moved) and sorted(order) == list(range(seen.classes)):
        label = int(moved[0])
        called = f" ({names[label]})" if label < len(names) else ""
        cause = f"classes in another order, e.g. label {label}{called} is the model's output {order[label]}"
        yield cause, Seen(seen.decided, order[seen.labels], seen.classes)


def _as(values: Array | None, like: Array) -> Array:
    return np.ascontiguousarray(values, dtype=like.dtype)


def _better(instead: Seen, seen: Seen) -> bool:
    """Whether `instead` is right more often than `seen`, on the same samples, beyond chance."""
    gained, lost = int((instead.right & ~seen.right).sum()), int((seen.right & ~instead.right).sum())
    return bool(gained - lost > SIGMAS * np.sqrt(gained + lost))
