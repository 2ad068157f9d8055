"""Calibration inputs of another scale than the model is evaluated with: divided by 255, normalised, or not."""

from __future__ import annotations

from collections.abc import Iterable

from ptq.diagnosis.evidence import Evidence
from ptq.diagnosis.finding import DATA, Cause, Finding
from ptq.diagnosis.inputs import InputFacts

FACTOR = 2.0
"""How many times as wide one set's inputs may be as the other's: images of one kind fill their range alike."""


def find(evidence: Evidence) -> Iterable[Finding]:
    """Inputs whose calibration values span much less, or much more, than those they are evaluated with."""
    for name, seen in evidence.evaluation.items():
        held = evidence.calibration.get(name)
        if held is None:
            continue
        ours, theirs = max(abs(seen.low), abs(seen.high)), max(abs(held.low), abs(held.high))
        spans = (
            f"spans {seen.low:.4g}..{seen.high:.4g} in evaluation and {held.low:.4g}..{held.high:.4g} in calibration"
        )
        numbers = {"evaluation": [seen.low, seen.high], "calibration": [held.low, held.high], "n": held.n}
        # an outlier of one set widens its range, and leaves its mean where it was
        typical = _typical(seen), _typical(held)
        wide = theirs > 0 and ours > 0 and not 1 / FACTOR < ours / theirs < FACTOR
        if wide and not typical[0] / FACTOR < typical[1] < typical[0] * FACTOR:
            why = _why(ours / theirs)
            yield Finding(
                "scaled_inputs", name, f"{spans}{why}", "calibrate through the preprocessing of evaluation",
                kind=DATA, strength=1.0, numbers=numbers,
            )  # fmt: skip
        elif (held.low < 0) != (seen.low < 0) and min(held.low, seen.low) < -0.1 * max(ours, theirs):
            yield Finding(
                "scaled_inputs", name, f"{spans}: one of them is normalised and the other not",
                "calibrate through the preprocessing of evaluation", kind=DATA, strength=0.9, numbers=numbers,
            )  # fmt: skip


def _typical(facts: InputFacts) -> float:
    """The mean magnitude of the samples' means."""
    return float(abs(facts.means).mean())


def _why(ratio: float) -> str:
    for factor in (255.0, 127.5):
        for value, where in ((ratio, "calibration"), (1 / ratio, "evaluation")):
            if factor / 1.4 < value < factor * 1.4:
                return f": {where} was divided by {factor:g}"
    return f": {max(ratio, 1 / ratio):.3g} times {'less' if ratio > 1 else 'more'} in calibration"


CAUSE = Cause("scaled_inputs", find)
