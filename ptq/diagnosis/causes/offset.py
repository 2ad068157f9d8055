"""Values far from zero: a range must hold zero, and what lies between zero and them is levels that nobody uses."""

from __future__ import annotations

from collections.abc import Iterable

from ptq.diagnosis.evidence import WEIGHTS, Evidence
from ptq.diagnosis.finding import Cause, Finding

USED = 1 / 4
"""The share of its range that a tensor's values span, below which their distance from zero costs two bits and more."""


def find(evidence: Evidence) -> Iterable[Finding]:
    """Suspects whose bad tensor lies wholly on one side of zero, and far from it."""
    for suspect in evidence.suspects:
        lowest, highest = (held.get(suspect.tensor) for held in (evidence.errors.lowest, evidence.errors.highest))
        if suspect.part == WEIGHTS or suspect.tensor not in evidence.ranges or lowest is None or highest is None:
            continue
        low, high = evidence.ranges[suspect.tensor]
        bottom, top = float(lowest.min()), float(highest.max())
        span, nearest = top - bottom, min(abs(bottom), abs(top))
        if bottom * top <= 0 or span >= USED * (high - low) or span >= nearest:
            continue
        maker = evidence.graph.producer.get(suspect.tensor)
        yield Finding(
            "offset", maker.name if maker is not None and maker.name else suspect.tensor,
            f"has values of {bottom:.4g}..{top:.4g}, far from zero, which a range must hold: they keep "
            f"{int(255 * span / (high - low))} of 255 levels",
            "take the constant off, and add it to the bias of what reads it, or keep it in float (exclude)",
            evidence.place.get(suspect.tensor, suspect.place), suspect.sqnr_db, strength=0.85,
            numbers={"lowest": bottom, "highest": top, "tensor": suspect.tensor},
        )  # fmt: skip


CAUSE = Cause("offset", find)
