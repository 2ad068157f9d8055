"""extremes: min and max of every activation as onnxruntime's own calibrator finds them, sooner."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from ptq.calibration.expose import Exposed, expose
from ptq.calibration.observe import BATCH, each_batch
from ptq.calibration.same_range import same_range
from ptq.calibration.statistics import Extremes, merge, span
from ptq.data.batch import Batch, as_batch, size_of
from ptq.data.samples import Samples, order_of
from ptq.errors import BadData, BadModel
from ptq.models.graph import Graph
from ptq.models.onnx_file import load

_NEAR = 1e-3  # of a tensor's largest value: a thousand times the error of the fast pass


def extremes(model: Path, samples: Samples) -> dict[str, Extremes]:
    """Min and max of every float32 input and activation, by tensor name.

    Found fast, then computed exactly: an optimized pass in batches (`expose`) says which samples hold the extremes, and
    those few run again as ``quantize_static`` would run them, alone, through the graph as it stands. A bound that no
    range could have, a min above 0 or a max below, is left as the fast pass saw it. Of several samples that hold an
    extreme to within the fast pass's error, some 1e-6 of the largest value, one is taken.

    A model with a batch size of its own, or with activations that are not a sample's each, and a set so small that
    most of it would run twice, is run exactly at once; so is all of it after a fast pass that went wrong.

    A tensor in `same_range` is given the extremes of its other. The min of what a Relu gives is given as 0.

    Raises `BadModel` for a file that is no ONNX model that onnxruntime runs, `BadData` when the samples do not fit it
    or a value is not finite.
    """
    graph, order = Graph(load(model).graph), order_of(samples)
    other, rectified = same_range(graph), {node.output[0] for node in graph.nodes if node.op_type == "Relu"}
    exact = expose(model, exact=True, without=other)
    seen = None
    if exact.fixed is None and exact.batched and len(samples) > 2 * len(exact.tensors):
        # what is not finite is looked for exactly: the first tensor that has it is named then
        with contextlib.suppress(BadData, BadModel):
            fast = expose(model, without=other, peaks=True)
            seen = _exactly(merge(each_batch(fast, samples, span), order), exact, samples)
    if seen is None:
        seen = merge(each_batch(exact, samples, span, 1), order)
    seen |= {name: replace(each, min=0.0) for name, each in seen.items() if name in rectified}
    return seen | {name: seen[source] for name, source in other.items() if source in seen}


def _exactly(seen: dict[str, Extremes], exact: Exposed, samples: Samples) -> dict[str, Extremes] | None:
    """`seen` with the bounds that matter computed anew; None when they are not what the fast pass saw."""
    bounds = {name: ((each.min < 0, each.lowest), (each.max > 0, each.highest)) for name, each in seen.items()}
    wanted = {index for pair in bounds.values() for matters, index in pair if matters}
    found = dict(seen)
    for index, sample in _chosen(samples, wanted):
        values = exact(sample)
        for name, (low, high) in bounds.items():
            if low == (True, index):
                found[name] = replace(found[name], min=float(values[name].min()))
            if high == (True, index):
                found[name] = replace(found[name], max=float(values[name].max()))
    for name, each in found.items():
        near = _NEAR * max(-seen[name].min, seen[name].max)
        if not (abs(each.min - seen[name].min) <= near and abs(each.max - seen[name].max) <= near):
            return None
    return found


def _chosen(samples: Samples, wanted: Collection[int]) -> Iterator[tuple[int, Batch]]:
    """Place and batch of one, of each sample wanted, as they come."""
    first = 0
    for batch in map(as_batch, samples.batches(BATCH)):
        for row in range(size_of(batch)):
            if first + row in wanted:
                yield first + row, {name: values[row : row + 1] for name, values in batch.items()}
        first += size_of(batch)
        if first > max(wanted, default=-1):
            return
