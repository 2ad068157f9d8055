"""A few values that set the range of a tensor; and, where nothing else is wrong, too few bits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ptq.diagnosis.evidence import WEIGHTS, Evidence
from ptq.diagnosis.finding import Cause, Finding

MOST = 0.999
LEVELS = 1 / 8
"""The share of a range's levels that `MOST` of the values use, below which outliers set it."""


def find(evidence: Evidence) -> Iterable[Finding]:
    """Suspects whose bad tensor has most values in a small part of its range."""
    for suspect in evidence.suspects:
        if suspect.part == WEIGHTS or suspect.tensor not in evidence.ranges:
            continue
        low, high = evidence.ranges[suspect.tensor]
        values = np.concatenate([each[suspect.tensor].reshape(-1) for each in evidence.values([suspect.tensor])])
        inside = np.sort(np.abs(values))[: max(1, int(MOST * len(values)))].max() if len(values) else 0.0
        sides = 2.0 if low < 0 < high else 1.0
        share = float(min(1.0, sides * inside / (high - low))) if high > low else 1.0
        maker = evidence.graph.producer.get(suspect.tensor)
        where = maker.name if maker is not None and maker.name else suspect.tensor
        numbers = {"share_of_levels": share, "range": [low, high], "tensor": suspect.tensor}
        place = evidence.place.get(suspect.tensor, suspect.place)
        if share < LEVELS:
            yield Finding(
                "outlier", where,
                f"has a range of {low:.4g}..{high:.4g} that a few values set: {100 * MOST:g} % of them use "
                f"{100 * share:.1f} % of its levels",
                "clip them (percentile or mse), or keep it in float (exclude)", place, suspect.sqnr_db,
                strength=0.7, numbers=numbers,
            )  # fmt: skip
        else:
            yield Finding(
                "too_few_bits", where,
                f"keeps {suspect.sqnr_db:.1f} dB where the model's median layer keeps {evidence.median:.1f} dB",
                "keep it in float (exclude=auto), or use more bits (u16s8)", place, suspect.sqnr_db,
                strength=0.1, numbers=numbers,
            )  # fmt: skip


CAUSE = Cause("outlier", find)
