"""Channels of different size under one scale: of an activation, or of weights with one scale a tensor."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ptq.diagnosis.evidence import WEIGHTS, Evidence, Suspect
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
        if each.scale.size > 1:
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


CAUSE = Cause("channels", find)
