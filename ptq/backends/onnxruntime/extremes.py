"""extremes: min and max of every activation as onnxruntime's own calibrator finds them, sooner."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from ptq.backends.onnxruntime.observe import BATCH, Exposed, each_batch, expose
from ptq.backends.onnxruntime.same_range import same_range
from ptq.calibration.statistics import Extremes, merge, span
from ptq.errors import BadData, BadModel
from ptq.models.onnx_file import load
from ptq.samples import Float32, Samples

_NEAR = 1e-3  # of a tensor's largest value: a thousand times the error of the fast pass


def extremes(model: Path, samples: Samples) -> dict[str, Extremes]:
    """Min and max of the input and of every float activation, by tensor name.

    Found fast, then computed exactly: an optimized pass in batches (`observe.expose`) says which images hold the
    extremes, and those few run again as ``quantize_static`` would run them, alone, through the graph as it stands. A
    bound that no range could have, a min above 0 or a max below, is left as the fast pass saw it. Of several images
    that hold an extreme to within the fast pass's error, some 1e-6 of the largest value, one is taken.

    A model with a batch size of its own, or with activations that are not an image's each, and a set so small that
    most of it would run twice, is run exactly at once; so is all of it after a fast pass that went wrong.

    A tensor in `same_range` is given the extremes of its other. The min of what a Relu gives is given as 0.

    Raises `BadModel` for a file that is no ONNX model with one input, `BadData` when the samples do not fit it or a
    value is not finite.
    """
    graph = load(model).graph
    other, rectified = same_range(graph), {node.output[0] for node in graph.node if node.op_type == "Relu"}
    exact = expose(model, exact=True, without=other)
    seen = None
    if exact.fixed is None and exact.batched and len(samples) > 2 * len(exact.tensors):
        # what is not finite is looked for exactly: the first tensor that has it is named then
        with contextlib.suppress(BadData, BadModel):
            fast = expose(model, without=other, peaks=True)
            seen = _exactly(merge(each_batch(fast, samples, span)), exact, samples)
    if seen is None:
        seen = merge(each_batch(exact, samples, span, 1))
    seen |= {name: replace(each, min=0.0) for name, each in seen.items() if name in rectified}
    return seen | {name: seen[source] for name, source in other.items() if source in seen}


def _exactly(seen: dict[str, Extremes], exact: Exposed, samples: Samples) -> dict[str, Extremes] | None:
    """`seen` with the bounds that matter computed anew; None when they are not what the fast pass saw."""
    bounds = {name: ((each.min < 0, each.lowest), (each.max > 0, each.highest)) for name, each in seen.items()}
    wanted = {index for pair in bounds.values() for matters, index in pair if matters}
    found = dict(seen)
    for index, image in _chosen(samples, wanted):
        values = exact(image)
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


def _chosen(samples: Samples, wanted: Collection[int]) -> Iterator[tuple[int, Float32]]:
    """Index and image, of shape (1, ...), of each one wanted, in order."""
    first = 0
    for images in samples.batches(BATCH):
        for index in range(first, first + len(images)):
            if index in wanted:
                yield index, images[index - first : index - first + 1]
        first += len(images)
        if first > max(wanted, default=-1):
            return
