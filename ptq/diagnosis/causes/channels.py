"""Channels of different size under one scale: of an activation, or of weights with one scale a tensor."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ptq.diagnosis.evidence import WEIGHTS, Evidence, Suspect, Weights
from ptq.diagnosis.finding import Cause, Finding

SPREAD = 8.0
"""How many times as wide as the median channel the widest must be: at 8 the median one loses 3 of 8 bits."""


def find(evidence: Evidence) -> Iterable[Finding]:
    """Suspects whose bad tensor, or weights, have a channel much wider than the others."""
    for suspect in evidence.suspects:
        yield from _of_weights(evidence, suspect) if suspect.part == WEIGHTS else _of_activation(evidence, suspect)


def _of_activation(evidence: Evidence, suspect: Suspect) -> Iterable[Finding]:
    spread = evidence.spread_of_channels(suspect.tensor)
    if spread is None or spread[1] < SPREAD * spread[2]:
        return
    channel, widest, median = spread
    maker = evidence.graph.producer.get(suspect.tensor)
    reads = "" if suspect.tensor == suspect.layer.tensor else f", which {suspect.layer.node} reads"
    yield Finding(
        "activation_channels", (maker.name if maker is not None and maker.name else suspect.tensor),
        f"gives channel {channel} a width of {widest:.4g} and the median channel {median:.4g} under one scale "
        f"({widest / median:.0f}x{reads})",
        "equalize it with its neighbours (cross-layer equalization), or keep it in float (exclude)",
        evidence.place.get(suspect.tensor, suspect.place), suspect.sqnr_db, strength=0.8,
        numbers={"tensor": suspect.tensor, "channel": channel, "widest": widest, "median": median},
    )  # fmt: skip


def _of_weights(evidence: Evidence, suspect: Suspect) -> Iterable[Finding]:
    for each in evidence.weights:
        if suspect.layer.node not in (each.node.name, each.node.output[0]):
            continue
        rows = np.moveaxis(each.floats, each.axis, 0).reshape(each.floats.shape[each.axis], -1)
        widths = np.abs(rows).max(axis=1)
        widest, median = float(widths.max()), float(np.median(widths))
        reading = _reading(each)
        if each.scale.size > 1 and len(reading) > 3 and reading.max() > SPREAD * np.median(reading):
            channel, most = int(reading.argmax()), float(np.median(reading))
            yield Finding(
                "reading_weights", suspect.layer.node,
                f"has weights up to {reading.max():.4g} that read channel {channel} and up to {most:.4g} that read the "
                f"median one, under one scale an output ({reading.max() / max(most, 1e-30):.0f}x)",
                "equalize it with the layer before (cle_mse_gptq), or keep it in float (exclude)",
                suspect.place, suspect.sqnr_db, strength=0.65, numbers={"channel": channel, "median": most},
            )  # fmt: skip
        elif each.scale.size > 1:
            yield Finding(
                "weights", suspect.layer.node,
                "loses by its weights although every channel has its own scale: a few are far larger than the others",
                "keep it in float (exclude), or round its weights on data (mse_gptq)",
                suspect.place, suspect.sqnr_db, strength=0.6, numbers={"widest": widest},
            )  # fmt: skip
        else:
            yield Finding(
                "weight_channels", suspect.layer.node,
                f"has weights up to {widest:.4g} in channel {int(widths.argmax())}, {median:.4g} in the median one, "
                f"under one scale ({widest / max(median, 1e-30):.0f}x)",
                "give every channel its own scale (granularity=channel)",
                suspect.place, suspect.sqnr_db, strength=0.85, numbers={"widest": widest, "median": median},
            )  # fmt: skip


def _reading(weights: Weights) -> npt.NDArray[np.float32]:
    """By input channel, the largest weight that reads it; none of a convolution of one channel each."""
    floats, axis = weights.floats, 1 if weights.axis == 0 else 0
    widths: npt.NDArray[np.float32] = np.abs(np.moveaxis(floats, axis, 0).reshape(floats.shape[axis], -1)).max(axis=1)
    return widths


CAUSE = Cause("channels", find)
