"""moments: what one pass over the calibration samples sees of every layer's input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from ptq.calibration.expose import expose
from ptq.calibration.layers import layers
from ptq.calibration.observe import each_batch
from ptq.calibration.patches import Moments, MomentsSoFar
from ptq.data.samples import Float32, Samples
from ptq.models.onnx_file import load

_BATCH = 32
_PATCHES = 1 << 16  # patches a layer is judged by, over all samples


def moments(model: Path, samples: Samples) -> dict[str, Moments]:
    """Moments of the patches of every layer, by the layer's output tensor: one pass over the samples.

    A layer whose input is no float32 activation, or too large to be squared, is left out. Raises as `observe` does.
    """
    exposed = expose(model)
    known = {*exposed.floats, *exposed.tensors}
    found = [layer for layer in layers(load(model)) if layer.node.input[0] in known]
    most = max(1, _PATCHES // len(samples))
    sums = {layer.output: MomentsSoFar() for layer in found}
    first = 0
    with threadpool_limits(limits=1, user_api="blas"):  # a product's last bits depend on how many threads share it
        for seen in each_batch(exposed, samples, _whole, _BATCH):
            n = max(len(values) for values in seen.values())
            for layer in found:
                values = seen[layer.node.input[0]]  # of one row where it has no batch dimension
                sums[layer.output].add(layer.window.patches(values, most * n // len(values), first))
            first += n
    with np.errstate(over="ignore", invalid="ignore"):
        finished = {name: so_far.finish() for name, so_far in sums.items()}
        return {name: each for name, each in finished.items() if np.isfinite(each.covariance.astype(np.float32)).all()}


def _whole(seen: dict[str, Float32]) -> dict[str, Float32]:
    return seen
