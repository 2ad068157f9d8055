"""smooth: what is large in few channels of an activation moves into the weights that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptq.calibration.channels import Channels, channels
from ptq.calibration.layers import Layer, layers
from ptq.calibration.patches import Doubles
from ptq.files import write_bytes
from ptq.models.onnx_file import load, serialized
from ptq.quantization.absorb import Absorber
from ptq.quantization.calibration import Calibration
from ptq.quantization.method import SAMPLES, Transform

ALPHAS = np.linspace(0.0, 1.0, 21)
"""How much of the way outliers may go into the weights."""
LEVELS = 255
"""Steps of the grids that errors are weighed for: 8 bits, the activations' and the weights'."""
WORTH = 0.7
"""What is left of the error at most where smoothing costs a node of its own."""


def smooth(model: Path, out: Path, calibration: Calibration) -> Mapping[str, str]:
    """A `ptq.quantization.method.Transform`: every channel of a matrix product's input divided by a factor that its
    weights are multiplied with, so that one scale for all channels loses less.

    The factors are |x|^alpha / |w|^(1 - alpha) of the largest magnitudes of a channel, with the alpha of `ALPHAS` that
    leaves the least expected error of the output; layers that read one tensor share them. The division goes into what
    makes the tensor where nothing else reads it (a LayerNormalization, a Mul or Add of constants, another product),
    else it is a Mul of its own, which is added where it pays.

    Source: Xiao et al. (2022), SmoothQuant, arXiv:2211.10438; alpha by layer instead of 0.5 throughout.
    """
    proto = load(model)
    readers: dict[str, list[Layer]] = {}
    for layer in layers(proto):
        if not layer.window.kernel:
            readers.setdefault(layer.node.input[0], []).append(layer)
    seen = channels(model, calibration.samples, readers)
    absorber = Absorber(proto)
    folded = added = 0
    for tensor, found in readers.items():
        if tensor not in seen:
            continue
        factors, before, after = choose([absorber.weights(layer) for layer in found], seen[tensor])
        if after >= before:
            continue
        if absorber.divide(tensor, found, factors):
            folded += 1
        elif after <= WORTH * before:
            absorber.insert(tensor, found, factors)
            added += 1
        else:
            continue
        for layer in found:
            absorber.scale(layer, factors)
    absorber.finish()
    write_bytes(out, serialized(proto, model))
    return {"smoothed": f"{folded + added} of {len(readers)} inputs of matrix products, {added} by a Mul of their own"}


def choose(weights: Sequence[npt.NDArray[np.float32]], seen: Channels) -> tuple[Doubles, float, float]:
    """(factors, error without them, error with them): factors of shape (channels,), errors as shares of the output's
    power. `weights` have shape (channels, outputs)."""
    magnitudes = np.maximum(np.maximum(-seen.low, seen.high), np.finfo(np.float32).tiny)
    heights = np.maximum(np.max([np.abs(each).max(axis=1) for each in weights], axis=0), np.finfo(np.float32).tiny)
    whole = [each.astype(np.float64) for each in weights]
    best = np.ones(len(magnitudes))
    least = before = _error(whole, seen, best)
    for alpha in ALPHAS:
        factors = magnitudes**alpha / heights ** (1 - alpha)
        factors = np.clip(factors / np.exp(np.log(factors).mean()), 1e-3, 1e3)
        if (error := _error(whole, seen, factors)) < least:
            best, least = factors, error
    return best, before, least


def _error(weights: Sequence[Doubles], seen: Channels, factors: Doubles) -> float:
    """Expected squared error of the outputs / their power, when both sides are rounded to 8 bits: one scale for all of
    the input, one for every output of the weights. An error of rounding is even over a step, so step^2 / 12."""
    step = (max(0.0, float((seen.high / factors).max())) - min(0.0, float((seen.low / factors).min()))) / LEVELS
    noise = power = 0.0
    for each in weights:
        scaled = each * factors[:, None]
        steps = 2 * np.abs(scaled).max(axis=0) / LEVELS
        noise += step**2 / 12 * float((scaled**2).sum())
        noise += float((steps**2).sum()) / 12 * float((seen.mean_square / factors**2).sum())
        power += float(seen.mean_square @ (each**2).sum(axis=1))
    return noise / power if power else 0.0


SMOOTH = Transform("smooth", smooth, needs=frozenset({SAMPLES}))
