"""Repeats: a set of samples that is far smaller than its number, so that whatever is measured on it proves little."""

from __future__ import annotations

from collections.abc import Iterable

from ptq.data.batch import Array, Batch, as_batch, size_of
from ptq.data.samples import ArraySamples, Labels

FEW = 10
"""Samples below which equal ones prove nothing."""
WIDE = 32
"""Values of a sample below which others may be equal to it, or near, by chance."""


def repeated(batches: Iterable[Array | Batch]) -> str | None:
    """In one line, that half of the samples or more are others once more; None when they are not."""
    hashes = [each for batch in map(as_batch, batches) if width(batch) >= WIDE for each in ArraySamples(batch).hashes()]
    count, different = len(hashes), len(set(hashes))
    if count < FEW or 2 * different > count:
        return None
    return (
        f"only {different} of {count} samples are different, but more than half should be; likely cause: one image or "
        "batch read again and again"
    )


def one_class(labels: Labels | None) -> str | None:
    """In one line, that all labels are of one class; None when they are not."""
    if labels is None or len(labels) < FEW or labels.min() != labels.max():
        return None
    return (
        f"every one of {len(labels)} labels is {labels[0]}, but there should be two classes at least: a model that "
        "always says so is right; likely cause: one folder or one part of a sorted set was read"
    )


def width(batch: Batch) -> int:
    """How many values a sample of a batch has."""
    return sum(values.size for values in batch.values()) // max(size_of(batch), 1)
