"""in_batches: feed a graph of fixed batch size with batches of any."""

from __future__ import annotations

import numpy as np

from ptq.backends.protocol import Predictor
from ptq.data.batch import Batch, joined, size_of


def in_batches(run: Predictor, size: int) -> Predictor:
    """`run`, which takes exactly `size` samples, as a predictor of any number: a short rest is filled up and cut."""

    def predict(batch: Batch) -> Batch:
        parts = []
        for start in range(0, size_of(batch), size):
            part = {name: values[start : start + size] for name, values in batch.items()}
            count = size_of(part)
            said = dict(run(filled(part, size)))
            parts.append(said if count == size else {name: values[:count] for name, values in said.items()})
        return joined(parts)

    return predict


def filled(batch: Batch, size: int) -> Batch:
    """A batch of fewer samples than `size`, its last one repeated until there are as many; any other as it is."""
    short = size - size_of(batch)
    if short <= 0:
        return batch
    return {name: np.concatenate([values, values[-1:].repeat(short, axis=0)]) for name, values in batch.items()}
