"""rank: which layers of a model lose most by quantization, from one pass over samples without labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptq.data.samples import Samples
from ptq.sensitivity.joint import (
    CLIPPING,
    COMPUTED,
    HIGHEST,
    LOCAL,
    LOWEST,
    PROPAGATED,
    ROUNDING,
    SIZE,
    SQUARES,
    TOTAL,
    WEIGHTS,
)
from ptq.sensitivity.measure import Sums, joint, measure

COUNT = 16
"""Samples a ranking is made of."""
BEST_DB = 120.0
"""What an error of nothing counts as, dB."""
_NORMAL = 1.96
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LayerError:
    """What one layer loses, as signal-to-quantization-noise ratios in dB: a larger one is better.

    Parameters
    ----------
    node: its name in the float model. tensor: what it makes, by the float model's name.
    integer: whether the file has its inputs, weights and output quantized; a runtime may do otherwise.
    local: with only this layer quantized: weights, inputs and output; the inputs come from the float model.
    local_interval: its 95 % interval over the samples (jackknife).
    even: as `local`, but the mean over channels of noise / signal, each 1 at most: a Concat of boxes and scores hides
        the scores from `local`, not from this.
    propagated: at the tensor, in the quantized model.
    weights: of the layer with only its weights quantized; computed: with weights and inputs, not the output. None
        where there is no such part.
    rounding: of the tensor, quantized alone; clipping: of the part of that beyond the range. None for a float tensor.

    The signal is the variance of each channel: a constant says nothing.
    """

    node: str
    tensor: str
    integer: bool
    local: float
    local_interval: tuple[float, float]
    even: float
    propagated: float | None
    weights: float | None
    computed: float | None
    rounding: float | None
    clipping: float | None


@dataclass(frozen=True)
class Rounding:
    """What quantizing one tensor costs, dB: all of it, with every channel counted alike, and beyond the range alone."""

    plain: float
    even: float
    clipping: float | None


@dataclass(frozen=True, eq=False)
class Errors:
    """Every layer's error in the graph's order, over so many `samples`; of every float tensor with a quantizer its
    `rounding`; and by float tensor the lowest and highest value of every channel, arrays of shape (channels,)."""

    layers: list[LayerError]
    rounding: dict[str, Rounding]
    lowest: dict[str, Doubles]
    highest: dict[str, Doubles]
    samples: int

    @property
    def ranked(self) -> list[LayerError]:
        """The worst first."""
        return sorted(self.layers, key=lambda each: min(each.local, each.even))


def rank(model: Path, artifact: Path, samples: Samples, count: int = COUNT) -> list[LayerError]:
    """Every layer, the one that loses most first.

    `model` is the float model as it was quantized (prepared, so that its tensors have the artifact's names), `artifact`
    a QDQ file of it. No label is used: `count` of the samples, evenly spread, run once. Raises `BadModel` for a file
    that is no QDQ form of the model, `BadData` when the samples do not fit it.
    """
    return errors(model, artifact, samples, count).ranked


def errors(model: Path, artifact: Path, samples: Samples, count: int = COUNT) -> Errors:
    """Every layer in the graph's order. As `rank`."""
    made = joint(model, artifact)
    sums = measure(made, samples, count, artifact)
    rounding = {
        tensor: Rounding(
            _db(sums, ROUNDING, tensor, _plain), _db(sums, ROUNDING, tensor, _even), _maybe(sums, CLIPPING, tensor)
        )
        for what, tensor in sums.found
        if what == ROUNDING
    }
    lowest = {tensor: values.min(axis=0) for (what, tensor), values in sums.found.items() if what == LOWEST}
    highest = {tensor: values.max(axis=0) for (what, tensor), values in sums.found.items() if what == HIGHEST}
    layers = [_layer(sums, node, target, own) for node, (target, own) in sums.rows.items()]
    return Errors(layers, rounding, lowest, highest, sums.samples)


def _layer(sums: Sums, node: str, target: str, own: str) -> LayerError:
    rounds, loses = ((what, target) in sums.found for what in (ROUNDING, LOCAL))
    return LayerError(
        node=node,
        tensor=target,
        integer=rounds and (COMPUTED, own) in sums.found,
        local=_db(sums, LOCAL, target, _plain) if loses else BEST_DB,
        local_interval=_interval(sums, LOCAL, target) if loses else (BEST_DB, BEST_DB),
        even=_db(sums, LOCAL, target, _even) if loses else BEST_DB,
        propagated=_maybe(sums, PROPAGATED, target),
        weights=_maybe(sums, WEIGHTS, own),
        computed=_maybe(sums, COMPUTED, own),
        rounding=_maybe(sums, ROUNDING, target),
        clipping=_maybe(sums, CLIPPING, target),
    )


def _maybe(sums: Sums, what: str, tensor: str) -> float | None:
    return _db(sums, what, tensor, _plain) if (what, tensor) in sums.found else None


Ratio = Callable[[Doubles, Doubles], float]


def _db(sums: Sums, what: str, tensor: str, ratio: Ratio, without: int | None = None) -> float:
    """SQNR of a tensor in dB over all samples, but for the one numbered `without`."""
    kept = np.arange(sums.samples) != without
    noise = sums.found[what, tensor][kept].sum(axis=0)
    total, squares = (sums.found[each, tensor][kept].sum(axis=0) for each in (TOTAL, SQUARES))
    size = sums.found[SIZE, tensor][kept].sum() / len(total)
    with np.errstate(over="ignore", invalid="ignore"):  # a mask of -3e38, squared, is no number of float32
        signal = np.maximum(squares - total**2 / max(size, 1.0), 0.0)
    # what float32 rounds is no signal
    signal[~np.isfinite(signal) | (signal <= squares * 1e-10)] = 0.0
    if len(noise) != len(signal):
        noise, signal = noise.sum(keepdims=True), signal.sum(keepdims=True)
    return to_db(ratio(noise, signal))


def to_db(noise_share: float) -> float:
    """noise / signal as an SQNR in dB, between -`BEST_DB` and `BEST_DB`."""
    least = 10 ** (-BEST_DB / 10)
    return -10 * math.log10(min(max(noise_share, least), 1 / least))


def _plain(noise: Doubles, signal: Doubles) -> float:
    whole = float(signal.sum())
    return float(noise.sum()) / whole if whole > 0 else float(noise.sum() > 0)


def _even(noise: Doubles, signal: Doubles) -> float:
    alive = signal > 0
    return float(np.minimum(noise[alive] / signal[alive], 1.0).mean()) if alive.any() else 0.0


def _interval(sums: Sums, what: str, tensor: str) -> tuple[float, float]:
    """95 % interval of the SQNR, by leaving out one sample at a time (Efron, The Jackknife, 1982)."""
    whole, n = _db(sums, what, tensor, _plain), sums.samples
    if n < 2:
        return -BEST_DB, BEST_DB
    each = np.array([_db(sums, what, tensor, _plain, without) for without in range(n)])
    half = _NORMAL * math.sqrt(float((n - 1) / n * np.square(each - each.mean()).sum()))
    return whole - half, whole + half
