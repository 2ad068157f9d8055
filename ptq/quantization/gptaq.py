"""gptaq: a correction that rounds layers one after the other, each on what the rounded layers before it hand to it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ptq.calibration.layers import Layer, layers
from ptq.data.batch import as_batch, size_of
from ptq.data.samples import Samples
from ptq.files import write_bytes
from ptq.models.nodes import Nodes, Tensors
from ptq.models.onnx_file import load, serialized
from ptq.quantization import weights
from ptq.quantization.calibration import Calibration
from ptq.quantization.clip import FEW, clip
from ptq.quantization.correct import pool_globally, set_bias
from ptq.quantization.cross_moments import CrossMoments
from ptq.quantization.gptq import fit_weights
from ptq.quantization.plan import Plan, WeightGrid
from ptq.quantization.rounded import Rounded

_BATCH = 32
_PATCHES = 1 << 16  # a layer is judged by, over all samples
_THREADS = 2  # batches at a time; what they give is the same
_BYTES = 3 << 29  # of activations alive in the float model; of samples that need more, fewer are taken


def gptaq(model: Path, out: Path, plan: Plan, calibration: Calibration) -> tuple[Plan, str]:
    """A `ptq.quantization.plan.Correct`: the float model and the rounded one run side by side, node by node.

    What a layer should give is what it gives in the float model; where that is added to a tensor which is rounded
    already, what makes the sum that of the float model. The weights that come nearest from the rounded input are found
    by least squares, then rounded as GPTQ does, and the bias takes up the mean. Inputs are read, no labels; the first
    ones alone where the activations of all would need more than 3 GB.

    Source: Li et al. (2025), GPTAQ, arXiv:2504.02692: asymmetric calibration, from the rounded input towards the float
    output; Frantar et al. (2022), GPTQ, arXiv:2210.17323, for the rounding.
    """
    from onnx import numpy_helper

    source, proto = load(model), load(model)
    pool_globally(source)
    pool_globally(proto)
    exact, rounded = Nodes(source, model), Rounded(proto, plan, model)
    found = {layer.output: layer for layer in layers(proto) if layer.node.name not in plan.exclude}
    given, n = _some(calibration.samples, exact)
    have = [dict(each) for each in given]
    grids: dict[str, WeightGrid] = {}
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(_THREADS) as pool:
        _settle(rounded, plan, list(have[0]), exact, given, have)
        for index, node in enumerate(rounded.graph.nodes):
            for seen, made in zip(given, pool.map(partial(exact.run, index), given), strict=True):
                seen.update(made)
            layer = found.get(node.output[0]) if node.output else None
            if layer is not None and all(seen[node.input[0]].dtype == np.float32 for seen in given):
                name = str(node.input[1])
                fitted, bias, grids[name] = _fit(layer, plan, given, have, _partner(rounded, layer.output, have[0]))
                given_bias = set_bias(proto, node, bias) if layer.has_bias else None
                rounded.give(layer, grids[name], fitted, given_bias)
                held = next(each for each in proto.graph.initializer if each.name == name)
                held.CopyFrom(numpy_helper.from_array(layer.shaped(fitted), name))
            for seen, made in zip(have, pool.map(partial(rounded.run, index), have), strict=True):
                seen.update(made)
            _settle(rounded, plan, list(node.output), exact, given, have)
            for gone in {*exact.gone(index), *rounded.gone(index)}:
                for seen in (*given, *have):
                    seen.pop(gone, None)
    write_bytes(out, serialized(proto, model))
    ranges = {**plan.ranges, **{name: rounded.ranges[owner] for name, owner in rounded.owners.items()}}
    done = f"weights and biases fitted layer by layer on {n} of the calibration samples"
    return replace(plan, grids=grids, ranges=ranges), done


def _fit(
    layer: Layer, plan: Plan, exact: Sequence[Tensors], rounded: Sequence[Tensors], partner: str | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], WeightGrid]:
    """The rows of a layer on their grid, its bias, and the grid."""
    taken, seen, first = layer.node.input[0], CrossMoments(), 0
    most = max(1, _PATCHES // sum(len(each[taken]) for each in exact))
    spots = layer.window.outputs
    for theirs, ours in zip(exact, rounded, strict=True):
        wanted = theirs[layer.output]
        if partner is not None:
            wanted = wanted + (theirs[partner] - ours[partner])
        seen.add(layer.window.patches(ours[taken], most, first), spots.patches(wanted, most, first))
        first += len(wanted)
    found = seen.finish()
    target = found.least_squares(layer.rows, centred=layer.has_bias)
    axis = layer.axis if plan.per_channel else None
    low, high = weights.ranges(layer.shaped(target), axis)
    integer = plan.weight(layer.node.input[1])
    fitted, scale, zero = fit_weights(target, integer.weight_quantizer, low, high, found.moments, layer.has_bias)
    return fitted, found.left(fitted), WeightGrid(integer, scale, zero, axis)


def _settle(
    rounded: Rounded, plan: Plan, names: list[str], exact: Nodes, seen: Sequence[Tensors], have: Sequence[Tensors]
) -> None:
    """Round activations that were just made; those of few bits over a range that is searched for."""
    for name in names:
        quantizer = plan.activation(name).quantizer
        fixed = exact.graph.producer.get(name) is not None and exact.graph.producer[name].op_type == "Softmax"
        if rounded.owners.get(name) == name and quantizer.bits < FEW and not fixed:
            rounded.span(name, quantizer, clip(quantizer, rounded.ranges[name], name, exact, seen, have))
    for each in have:
        each.update(rounded.settle({name: each[name] for name in names if name in each}))


def _partner(rounded: Rounded, output: str, ready: Tensors) -> str | None:
    """What a layer's output is added to and to nothing else, where that is rounded already."""
    readers = rounded.graph.readers.get(output, [])
    if len(readers) != 1 or readers[0].op_type != "Add" or output in rounded.graph.outputs:
        return None
    others = [str(name) for name in readers[0].input if name != output]
    return others[0] if others and others[0] in ready else None


def _some(samples: Samples, exact: Nodes) -> tuple[list[Tensors], int]:
    """Samples in batches, and how many: all, or the first whose activations fit into memory."""
    found: list[Tensors] = []
    n, most = 0, 0
    for batch in samples.batches(_BATCH):
        given: dict[str, Any] = dict(as_batch(batch))
        if not found:
            most = max(1, _BYTES // (exact.peak({name: each[:1] for name, each in given.items()}) or 1))
        kept = {name: each[: most - n] for name, each in given.items()}
        found.append(kept)
        n += size_of(kept)
        if n >= most:
            break
    return found, n
