"""Too few calibration samples, or samples that are all one value."""

from __future__ import annotations

from collections.abc import Iterable

from ptq.diagnosis.evidence import Evidence
from ptq.diagnosis.finding import DATA, Cause, Finding

FEW = 10
"""Fewer samples than this do not show what a tensor may hold."""


def find(evidence: Evidence) -> Iterable[Finding]:
    """A set that is too small, told of the tensor whose range is exceeded most; constant samples."""
    for name, held in evidence.calibration.items():
        if held.constant > 0.5 * len(held.means):
            yield Finding(
                "few_samples", name, f"is constant in {held.constant} of {len(held.means)} calibration samples",
                "calibrate on real inputs", kind=DATA, strength=1.0, numbers={"constant": held.constant},
            )  # fmt: skip
    n = min((held.n for held in evidence.calibration.values()), default=FEW)
    if n >= FEW:
        return
    beyond = [
        (found.clipping, tensor) for tensor, found in evidence.errors.rounding.items() if found.clipping is not None
    ]
    left, tensor = min(beyond, default=(None, next(iter(evidence.calibration))))
    what = f"was calibrated on {n} sample{'s' if n > 1 else ''}, as all are"
    if tensor in evidence.ranges and tensor in evidence.errors.highest:
        low, high = evidence.ranges[tensor]
        seen = evidence.errors.lowest[tensor].min(), evidence.errors.highest[tensor].max()
        if seen[0] < low or seen[1] > high:
            what += f": it reaches {seen[0]:.4g}..{seen[1]:.4g}, but keeps {low:.4g}..{high:.4g}"
    yield Finding(
        "few_samples", tensor, what, "calibrate on 100 samples or more", place=evidence.place.get(tensor, -1),
        sqnr_db=left, kind=DATA, strength=0.8, numbers={"n": n},
    )  # fmt: skip


CAUSE = Cause("few_samples", find)
