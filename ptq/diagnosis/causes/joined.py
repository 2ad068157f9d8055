"""Scales joined by one node: a Concat, Add, Mul or Where whose inputs differ in size; an attention mask among them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ptq.diagnosis.evidence import INPUT, OUTPUT, Evidence, Suspect
from ptq.diagnosis.finding import Cause, Finding

JOINS = {"Concat", "Add", "Mul", "Where", "Max", "Min", "Sub"}
FACTOR = 16.0
"""How much wider than its narrowest input a join's range must be: at 16 the narrowest keeps 4 of 8 bits."""
FAR = 50.0
"""How many times as large as all other values those that a mask puts away must be."""


def find(evidence: Evidence) -> Iterable[Finding]:
    """Suspects whose bad tensor is made by a join of ranges far apart, or holds what a mask put away."""
    for suspect in evidence.suspects:
        maker = evidence.graph.producer.get(suspect.tensor)
        if suspect.part not in (INPUT, OUTPUT) or maker is None:
            continue
        where = maker.name or suspect.tensor
        masked = _masked(evidence, suspect)
        if masked is not None:
            far, near = masked
            yield Finding(
                "mask", where,
                f"has a constant of {far:.3g} as a mask inside the range of its other values, which lie within "
                f"{near:.3g}: they keep {_levels(evidence, suspect.tensor, near)} levels",
                "keep it in float up to the Softmax (exclude), or mask with a small constant such as -20",
                evidence.place.get(suspect.tensor, -1), suspect.sqnr_db, strength=1.0,
                numbers={"constant": far, "others": near},
            )  # fmt: skip
            continue
        if maker.op_type not in JOINS:
            continue
        widths = _widths(evidence, maker)
        if len(widths) < 2 or max(widths)[0] < FACTOR * min(widths)[0]:
            continue
        (wide, wide_name), (narrow, narrow_name) = max(widths), min(widths)
        yield Finding(
            "joined", where,
            f"joins {wide_name} of width {wide:.4g} with {narrow_name} of width {narrow:.4g} under one scale "
            f"({wide / narrow:.0f}x; the narrower keeps {_levels(evidence, suspect.tensor, narrow)} levels)",
            "keep it in float (exclude=auto)", evidence.place.get(suspect.tensor, -1), suspect.sqnr_db, strength=0.9,
            numbers={"widest": wide, "narrowest": narrow},
        )  # fmt: skip


def _widths(evidence: Evidence, maker: object) -> list[tuple[float, str]]:
    """(width, name) of every input that is not always zero."""
    found = []
    for tensor in maker.input:  # type: ignore[attr-defined]
        lowest, highest = evidence.errors.lowest.get(tensor), evidence.errors.highest.get(tensor)
        if lowest is not None and highest is not None:
            width = max(float(highest.max()), 0.0) - min(float(lowest.min()), 0.0)
            if width > 0:
                found.append((width, tensor))
    return found


def _masked(evidence: Evidence, suspect: Suspect) -> tuple[float, float] | None:
    """(the constant, the largest of the others) where a tensor holds some far and negative values, none between."""
    low = evidence.errors.lowest.get(suspect.tensor)
    if low is None or low.min() >= 0:
        return None
    values = np.concatenate([each[suspect.tensor].reshape(-1) for each in evidence.values([suspect.tensor])])
    far = values[values < 0.5 * values.min()]
    near = values[values >= 0.5 * values.min()]
    if not len(far) or not len(near) or not np.abs(near).max() > 0:
        return None
    apart = float(-far.max() / np.abs(near).max())
    alike = float(far.min() / far.max()) < 1.5
    return (float(far.min()), float(np.abs(near).max())) if apart > FAR and alike else None


def _levels(evidence: Evidence, tensor: str, width: float) -> str:
    low, high = evidence.ranges.get(tensor, (0.0, 0.0))
    return "few" if high <= low else f"{int(255 * width / (high - low))} of 255"


CAUSE = Cause("joined", find)
