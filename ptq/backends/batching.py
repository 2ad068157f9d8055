"""in_batches: feed a graph of fixed batch size with batches of any."""

from __future__ import annotations

import numpy as np

from ptq.backends.protocol import Predictor
from ptq.samples import Float32


def in_batches(run: Predictor, size: int) -> Predictor:
    """`run`, which takes exactly `size` samples, as a predictor of any number: a short rest is filled up and cut."""

    def predict(batch: Float32) -> Float32:
        parts = []
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            short = size - len(part)
            full = np.concatenate([part, part[-1:].repeat(short, axis=0)]) if short else part
            parts.append(run(full)[: len(part)])
        return np.concatenate(parts)

    return predict
