"""observe: run a float ONNX model once with its activations exposed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ptq.calibration.expose import Exposed, expose
from ptq.data.batch import Batch, as_batch, size_of
from ptq.data.samples import Float32, Samples, order_of
from ptq.errors import BadData

BATCH = 8
"""Samples at a time: few enough that what a layer gives is still in a core's cache when it is counted."""

_BUDGET = 256 * 1024 * 1024  # bytes of exposed activations alive at a time
_MOST_AT_ONCE = 4  # batches

T = TypeVar("T")


def observe(model: Path, samples: Samples, batch: int = BATCH) -> Iterator[dict[str, Float32]]:
    """Batches of ``{tensor: float32 array of shape (n, ...)}``: every float32 input and activation.

    `batch` is the most samples at a time; fewer when their activations would pass 256 MB. Batches run ahead on several
    threads and come in order; neither the batches nor the values depend on how many threads there are. A model with a
    batch size of its own is run exactly and alone: a short last batch is filled up with its last sample and cut again.

    Use an array before asking for the next. Raises `BadModel` for a file that is no ONNX model that onnxruntime runs,
    `BadData` when the samples do not fit it.
    """
    yield from each_batch(expose(model), samples, lambda seen: seen, batch)


def each_batch(
    exposed: Exposed, samples: Samples, use: Callable[[dict[str, Float32]], T], batch: int = BATCH, spare: int = 0
) -> Iterator[T]:
    """What `use` makes of every batch `observe` would yield, in order.

    `use` runs on the thread that ran the model, while the values are in its core's cache. There are as many threads as
    cores, less those to `spare` for the caller's own work.
    """
    if exposed.fixed is not None:
        yield from (use(exposed(as_batch(given))) for given in samples.batches(exposed.fixed))
        return
    first = next(iter(samples.batches(1)), None)
    if first is None:
        raise BadData(f"{exposed.model}: 0 calibration samples, but should be at least 1")
    weight = exposed.inside + sum(each.nbytes for each in exposed(as_batch(first)).values())
    threads = _at_once(weight, _cores() - spare)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        for given in map(as_batch, samples.batches(_size(batch, weight))):
            # of larger samples, activations grow by the square at most: attention's do
            grown = max(1.0, _bytes(given) / _bytes(as_batch(first))) if order_of(samples) is not None else 1.0
            heavier = int(weight * grown**2)
            at_once = _at_once(heavier, threads)
            queue = at_once if spare else at_once + 1  # a busy caller is waited for; an idle one keeps another ready
            size = _size(batch, heavier)
            for start in range(0, size_of(given), size):
                part = {name: values[start : start + size] for name, values in given.items()}
                ready = [waiting.popleft().result() for _ in range(len(waiting) - queue + 1)]
                waiting.append(pool.submit(lambda part: use(exposed(part)), part))
                while ready:
                    yield ready.pop(0)  # not held here while it is used: no more than `queue` and one are alive
        while waiting:
            yield waiting.popleft().result()


def _bytes(batch: Batch) -> float:
    """Bytes of one sample."""
    return sum(values.nbytes for values in batch.values()) / size_of(batch)


def _at_once(weight: int, most: int) -> int:
    """How many batches may run at a time, `weight` being the bytes of a sample's activations."""
    return max(1, min(most, _MOST_AT_ONCE, _BUDGET // weight - 1))


def _size(batch: int, weight: int) -> int:
    """How many samples of `weight` bytes at a time, whatever the number of cores."""
    return max(1, min(batch, _BUDGET // (weight * (_MOST_AT_ONCE + 2))))


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
