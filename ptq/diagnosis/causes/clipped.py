"""A range clipped too far: by the method that chose it, or because calibration never saw what evaluation brings."""

from __future__ import annotations

from collections.abc import Iterable

from ptq.diagnosis.evidence import FINE_DB, Evidence
from ptq.diagnosis.finding import DATA, Cause, Finding

LEFT_DB = 12.0
"""A range is clipped too far when what lies beyond it leaves less than this of the signal."""
SEEN = 1.1
"""How many times as wide as the range calibration must have seen values for the method to have cut them."""
MANY = 0.25
"""Share of the tensors whose values calibration never saw, from which on the data differ, not a layer."""


def find(evidence: Evidence) -> Iterable[Finding]:
    """Tensors whose error is mostly beyond their range."""
    unseen: list[Finding] = []
    if evidence.answers_db >= FINE_DB:
        return
    for tensor, found in evidence.errors.rounding.items():
        if found.clipping is None or found.clipping > LEFT_DB or found.clipping > found.plain + 3.0:
            continue
        if tensor not in evidence.ranges or tensor not in evidence.errors.highest:
            continue
        low, high = evidence.ranges[tensor]
        lowest, highest = float(evidence.errors.lowest[tensor].min()), float(evidence.errors.highest[tensor].max())
        seen, place = evidence.calibrated.get(tensor), evidence.place.get(tensor, -1)
        numbers = {"keeps": [low, high], "reaches": [lowest, highest], "clipping_db": found.clipping}
        kept = f"keeps {low:.4g}..{high:.4g}"
        if seen is not None and (seen.max > SEEN * max(high, 0.0) or seen.min < SEEN * min(low, 0.0)):
            by = f"by {evidence.method}" if evidence.method else "by the method"
            yield Finding(
                "clipped", tensor, f"{kept} of {seen.min:.4g}..{seen.max:.4g}: clipped too far {by}",
                "choose a method that keeps more: minmax, or percentile at 99.99", place, found.clipping,
                strength=0.95, numbers=numbers,
            )  # fmt: skip
        else:
            unseen.append(Finding(
                "clipped", tensor,
                f"reaches {lowest:.4g}..{highest:.4g} but {kept}, all that calibration saw: the two sets differ",
                "calibrate on samples of the same kind and preprocessing, and on more", place, found.clipping,
                strength=0.9, numbers=numbers,
            ))  # fmt: skip
    many = len(unseen) > MANY * max(len(evidence.errors.rounding), 1)
    yield from (Finding(**{**vars(each), "kind": DATA if many else each.kind}) for each in unseen)


CAUSE = Cause("clipped", find)
