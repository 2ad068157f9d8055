"""sequential: layers rounded one after the other, each on what the layers before it, rounded, hand to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ptq.calibration.layers import Layer
from ptq.calibration.patches import Doubles, Moments
from ptq.quantization import weights
from ptq.quantization.gptq import fit_weights
from ptq.quantization.reconstruct.grids import WeightRows
from ptq.quantization.reconstruct.network import Network

if TYPE_CHECKING:
    from torch import Tensor

_PATCHES = 1 << 16  # a layer is judged by, over all samples
_DAMPING = 0.01  # of the mean variance of the inputs: how much weights are held where they are

Batches = list[dict[str, "Tensor"]]


def sequential(network: Network, batches: Batches) -> None:
    """Round the weights of every layer of `network`, in the graph's order, and set its bias.

    The wanted output of a layer is the float model's; of one that is added to a tensor that is rounded already, what
    makes the sum the float model's. First the weights that do this best without rounding are found by least squares,
    then these are rounded as GPTQ does.

    Source: Frantar et al. (2022), arXiv:2210.17323, for the rounding; Li et al. (2025), GPTAQ, arXiv:2504.02692, for
    rounding towards the float output from the rounded input.
    """
    import torch

    with torch.no_grad(), threadpool_limits(limits=1, user_api="blas"):
        exact, rounded = [dict(each) for each in batches], [network.entered(each) for each in batches]
        for index, node in enumerate(network.graph.nodes):
            for each in exact:
                network.run(index, each)
            output = node.output[0] if node.output else ""
            if output in network.weights:
                _fit(network, network.layers[output], exact, rounded, _partner(network, output, rounded[0]))
            for each in rounded:
                network.run(index, each, rounded=True)
            gone = network.last_read(index)
            for each in (*exact, *rounded):
                for name in gone:
                    each.pop(name, None)


def _partner(network: Network, output: str, ready: dict[str, Any]) -> str | None:
    """What a layer's output is added to and to nothing else, where that is ready."""
    readers = network.graph.readers.get(output, [])
    if len(readers) != 1 or readers[0].op_type != "Add" or output in network.graph.outputs:
        return None
    others = [name for name in readers[0].input if name != output]
    return others[0] if others and others[0] in ready else None


def _fit(network: Network, layer: Layer, exact: Batches, rounded: Batches, partner: str | None) -> None:
    taken, output = layer.node.input[0], layer.output
    seen = _Products()
    most, first = max(1, _PATCHES // sum(len(each[taken]) for each in exact)), 0
    spots = replace(layer.window, **_pointwise(layer)) if layer.window.kernel else layer.window
    for ours, theirs in zip(rounded, exact, strict=True):
        wanted = theirs[output]
        if partner is not None:
            wanted = wanted + theirs[partner] - ours[partner]
        seen.add(
            layer.window.patches(ours[taken].numpy(), most, first), spots.patches(wanted.numpy(), most, first)
        )
        first += len(wanted)
    rows, found = network.weights[output], seen.finish()
    old = layer.rows.astype(np.float64)
    target = _least_squares(old, found, layer.has_bias).astype(np.float32)
    moments = Moments(found.mean, found.covariance)
    per_channel = rows.axis is not None
    low, high = weights.ranges(target, 0 if per_channel else None)
    fitted, scale, zero = fit_weights(target, rows.quantizer, low, high, moments, centred=layer.has_bias)
    network.weights[output] = WeightRows(
        rows.quantizer, layer.shaped(fitted), layer.shaped(target), scale, zero, rows.axis
    )
    if output in network.biases:
        groups = fitted.astype(np.float64).reshape(len(found.mean), -1, fitted.shape[1])
        bias = found.wanted - np.einsum("gok,gk->go", groups, found.mean)
        network.set_bias(output, bias.reshape(-1).astype(np.float32))


class _Products:
    """Means and products of inputs and wanted outputs, each (groups, ...), float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.wanted = self.covariance = self.cross = np.zeros(())

    def add(self, inputs: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> None:
        self.count += inputs.shape[1]
        self.mean = self.mean + inputs.sum(axis=1, dtype=np.float64)
        self.wanted = self.wanted + wanted.sum(axis=1, dtype=np.float64)
        self.covariance = self.covariance + inputs.transpose(0, 2, 1) @ inputs
        self.cross = self.cross + wanted.transpose(0, 2, 1) @ inputs

    def finish(self) -> _Products:
        self.mean, self.wanted = self.mean / self.count, self.wanted / self.count
        self.covariance = self.covariance / self.count - self.mean[:, :, None] * self.mean[:, None, :]
        self.cross = self.cross / self.count - self.wanted[:, :, None] * self.mean[:, None, :]
        return self


def _least_squares(old: Doubles, seen: _Products, centred: bool) -> Doubles:
    """The weights that give what is wanted from what comes in, held near `old`."""
    outputs, found = len(old) // len(seen.mean), np.empty_like(old)
    for group, (mean, wanted) in enumerate(zip(seen.mean, seen.wanted, strict=True)):
        part = slice(group * outputs, (group + 1) * outputs)
        square, cross = seen.covariance[group], seen.cross[group]
        if not centred:
            square, cross = square + np.outer(mean, mean), cross + np.outer(wanted, mean)
        held = square + (_DAMPING * float(np.diag(square).mean()) or 1.0) * np.eye(len(square))
        found[part] = old[part] + np.linalg.solve(held, (cross - old[part] @ square).T).T
    return found


def _pointwise(layer: Layer) -> dict[str, Any]:
    """A window that reads every place of a convolution's output alone."""
    ones, zeros = (1,) * len(layer.window.kernel), (0,) * len(layer.window.kernel)
    return {"kernel": ones, "strides": ones, "dilations": ones, "before": zeros, "after": zeros}
