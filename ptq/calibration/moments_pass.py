"""moments: what one pass over the calibration samples sees of every layer's input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from ptq.calibration.expose import expose
from ptq.calibration.layers import layers
from ptq.calibration.observe import each_batch
from ptq.calibration.patches import Moments, Sums
from ptq.data.blocks import whole
from ptq.data.samples import Float32, Samples
from ptq.models.onnx_file import load

_BATCH = 32
_PATCHES = 1 << 16  # patches a layer is judged by, over all samples


def moments(model: Path, samples: Samples) -> dict[str, Moments]:
    """Moments of the patches of every layer, by the layer's output tensor: one pass over the samples.

    A layer whose input is no float32 activation, or too large to be squared, is left out. Raises as `observe` does.
    """
    return finished(sums(model, samples))


def sums(model: Path, samples: Samples) -> Iterator[dict[str, Sums]]:
    """What `moments` are made of, block by block."""
    exposed = expose(model)
    blocks = whole(samples, exposed.fixed)
    known = {*exposed.floats, *exposed.tensors}
    found = [layer for layer in layers(load(model)) if layer.node.input[0] in known]
    most = max(1, _PATCHES // len(blocks.samples))
    with threadpool_limits(limits=1, user_api="blas"):  # a product's last bits depend on how many threads share it
        for number in range(blocks.first, blocks.stop):
            block = blocks.one(number)
            first, so_far = block.start, {layer.output: Sums() for layer in found}
            for seen in each_batch(exposed, block, _same, _BATCH):
                n = max(len(values) for values in seen.values())
                for layer in found:
                    values = seen[layer.node.input[0]]  # of one row where it has no batch dimension
                    so_far[layer.output].add(layer.window.patches(values, most * n // len(values), first))
                first += n
            yield so_far


def finished(blocks: Iterable[Mapping[str, Sums]]) -> dict[str, Moments]:
    """The moments of all blocks, which come in order."""
    added: dict[str, Sums] = {}
    for block in blocks:
        for name, each in block.items():
            if name in added:
                added[name].take(each)
            else:
                added[name] = each
    with np.errstate(over="ignore", invalid="ignore"):
        made = {name: each.finish() for name, each in added.items()}
        return {name: each for name, each in made.items() if np.isfinite(each.covariance.astype(np.float32)).all()}


def _same(seen: dict[str, Float32]) -> dict[str, Float32]:
    return seen
