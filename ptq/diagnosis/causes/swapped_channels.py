"""Calibration images whose channels come in another order than those of evaluation: BGR instead of RGB."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ptq.diagnosis.evidence import Evidence
from ptq.diagnosis.finding import DATA, Cause, Finding

SURE = 3.0
"""Standard errors by which a difference of channel means must be told from zero, and from its opposite's."""


def find(evidence: Evidence) -> Iterable[Finding]:
    """Inputs of three channels whose first less last mean is of opposite sign in the two sets, and as large."""
    for name, seen in evidence.evaluation.items():
        held = evidence.calibration.get(name)
        if held is None or held.means.shape[1] != 3 or seen.means.shape[1] != 3:
            continue
        (ours, our_error), (theirs, their_error) = (_difference(each.means) for each in (seen, held))
        error = math.hypot(our_error, their_error)
        apart = abs(ours) > SURE * our_error and abs(ours - theirs) > SURE * error
        if apart and abs(ours + theirs) < max(2 * error, 0.5 * (abs(ours) + abs(theirs))):
            means = [", ".join(f"{value:.4g}" for value in each.means.mean(axis=0)) for each in (held, seen)]
            yield Finding(
                "swapped_channels", name,
                f"has channels of mean {means[0]} in calibration and {means[1]} in evaluation, which is their reverse: "
                "calibration is in BGR, or evaluation is",
                "read both in one order", kind=DATA, strength=1.0,
                numbers={"calibration": means[0], "evaluation": means[1]},
            )  # fmt: skip


def _difference(means: npt.NDArray[np.float64]) -> tuple[float, float]:
    """First less last channel: mean over the samples and its standard error."""
    each = means[:, 0] - means[:, 2]
    return float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.inf


CAUSE = Cause("swapped_channels", find)
