"""extremes: min and max of every activation as onnxruntime's own calibrator finds them, sooner."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ptq.calibration.expose import Exposed, expose
from ptq.calibration.observe import BATCH, each_batch
from ptq.calibration.same_range import same_range
from ptq.calibration.statistics import Extremes, merge, outermost, span
from ptq.data.batch import Batch, as_batch, size_of
from ptq.data.blocks import whole
from ptq.data.samples import Samples, order_of
from ptq.errors import BadData, BadModel
from ptq.models.graph import Graph
from ptq.models.onnx_file import load

_NEAR = 1e-3  # of a tensor's largest value: a thousand times the error of the fast pass


def extremes(model: Path, samples: Samples, parts: Iterable[Mapping[str, Extremes]] = ()) -> dict[str, Extremes]:
    """Min and max of every float32 input and activation, by tensor name.

    Found fast, then computed exactly: an optimized pass in batches (`expose`) says which samples hold the extremes, and
    those few run again as ``quantize_static`` would run them, alone, through the graph as it stands. A bound that no
    range could have, a min above 0 or a max below, is left as the fast pass saw it. Of several samples that hold an
    extreme to within the fast pass's error, some 1e-6 of the largest value, one is taken.

    A model with a batch size of its own, or with activations that are not a sample's each, and a set so small that
    most of it would run twice, is run exactly at once; so is all of it after a fast pass that went wrong.

    A tensor in `same_range` is given the extremes of its other. The min of what a Relu gives is given as 0.

    `parts` are what `part` says of all blocks of the samples; where they are absent, that is asked here.

    Raises `BadModel` for a file that is no ONNX model that onnxruntime runs, `BadData` when the samples do not fit it
    or a value is not finite.
    """
    graph = Graph(load(model).graph)
    other, rectified = same_range(graph), {node.output[0] for node in graph.nodes if node.op_type == "Relu"}
    exact, seen = expose(model, exact=True, without=other), None
    if _pays(exact, samples):
        # what is not finite is looked for exactly: the first tensor that has it is named then
        with contextlib.suppress(BadData, BadModel):
            seen = _exactly(outermost(parts or [_seen(model, samples, exact, other)]), exact, samples)
    elif parts:
        seen = outermost(parts)
    if seen is None:
        seen = merge(each_batch(exact, samples, span, 1), order_of(samples))
    seen |= {name: replace(each, min=0.0) for name, each in seen.items() if name in rectified}
    return seen | {name: seen[source] for name, source in other.items() if source in seen}


def part(model: Path, samples: Samples) -> dict[str, Extremes]:
    """What the first pass of `extremes` sees of samples, or of some `Blocks` of them."""
    other = same_range(Graph(load(model).graph))
    return _seen(model, samples, expose(model, exact=True, without=other), other)


def _seen(model: Path, samples: Samples, exact: Exposed, other: Mapping[str, str]) -> dict[str, Extremes]:
    blocks = whole(samples, exact.fixed)
    fast = _pays(exact, blocks.samples)
    exposed = expose(model, without=other, peaks=True) if fast else exact
    seen = merge(each_batch(exposed, blocks, span, BATCH if fast else 1), order_of(blocks))
    at = blocks.start
    return {name: replace(each, lowest=at + each.lowest, highest=at + each.highest) for name, each in seen.items()}


def _pays(exact: Exposed, samples: Samples) -> bool:
    """Whether a fast pass over all samples, then few exactly, costs less than all exactly."""
    return exact.fixed is None and exact.batched and len(samples) > 2 * len(exact.tensors)


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
