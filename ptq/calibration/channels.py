"""Channels: what one pass over the calibration samples sees of every channel of a tensor."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ptq.calibration.expose import expose
from ptq.calibration.observe import each_batch
from ptq.calibration.patches import Doubles
from ptq.data.samples import Float32, Samples

_BATCH = 32


@dataclass(frozen=True, eq=False)
class Channels:
    """Smallest and largest value and mean square of every channel, each of shape (channels,), float64."""

    low: Doubles
    high: Doubles
    mean_square: Doubles


def channels(model: Path, samples: Samples, tensors: Collection[str]) -> dict[str, Channels]:
    """`Channels` of those of `tensors` that are float32 activations of two dimensions or more, whose last one is that
    of the channels. One pass; raises as `ptq.calibration.observe.observe` does."""
    seen: dict[str, list[Doubles]] = {}
    counts: dict[str, int] = {}

    def sums(batch: dict[str, Float32]) -> dict[str, tuple[int, list[Doubles]]]:
        rows = {
            name: batch[name].reshape(-1, batch[name].shape[-1])
            for name in tensors
            if name in batch and batch[name].ndim > 1
        }
        return {
            name: (len(each), [each.min(0), each.max(0), (each * each).sum(0, dtype=np.float64)])
            for name, each in rows.items()
            if each.size
        }

    for found in each_batch(expose(model), samples, sums, _BATCH):
        for name, (count, (low, high, squares)) in found.items():
            counts[name] = counts.get(name, 0) + count
            if name in seen:
                before = seen[name]
                seen[name] = [np.minimum(before[0], low), np.maximum(before[1], high), before[2] + squares]
            else:
                seen[name] = [low, high, squares]
    return {
        name: Channels(low.astype(np.float64), high.astype(np.float64), squares / counts[name])
        for name, (low, high, squares) in seen.items()
    }
