"""Changes: in which run of a history a case became better or worse, told from chance by a paired test.

Neighbouring runs of a case on the same machine class and the same images are compared by McNemar's exact test on what
each got right. A loss of an image a run never shows so: every run is therefore compared, too, with the one its stretch
begins with, the last that was marked. A history has hundreds of such pairs, so p is corrected for all of them: Heyse's
procedure for discrete tests (J. F. Heyse, "A false discovery rate procedure for categorical data", 2011), in which a
pair counts by the smallest p it could have had. Two runs that are equal to the bit could not have had any, and cost
nothing.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ptq.gate.reference import unpacked
from ptq.metrics.paired import mcnemar
from ptq.report.history import Past

LEVEL = 0.01
"""Share of marked changes that chance may make; with no true change, the chance of any mark at all. Half of it is for
neighbours, half for runs that are further apart."""


@dataclass(frozen=True)
class Step:
    """A case from one run to a later one of the same images; `lost` and `won` images. `changed` once it is marked,
    `drift` where the two are no neighbours.
    """

    case: str
    machine: str
    before: Past
    after: Past
    lost: int
    won: int
    changed: bool = False
    drift: bool = False

    @property
    def p(self) -> float:
        """McNemar's exact two-sided p."""
        return mcnemar(self.lost, self.won)

    @property
    def worse(self) -> bool:
        """Whether it is a change for the worse."""
        return self.changed and self.lost > self.won

    def line(self) -> str:
        """What changed, where."""
        then, now = self.before.cases[self.case], self.after.cases[self.case]
        kind = "worse" if self.lost > self.won else "better"
        since = f" little by little since {self.before.name}" if self.drift else ""
        return (
            f"{kind}: {self.case}: {now['metric']} {then['value']:.4f} -> {now['value']:.4f} at {self.after.name} of "
            f"{self.after.date}{since}: {self.lost} images lost, {self.won} won, p={self.p:.2g}, n={now['n']} "
            f"({self.machine})"
        )


@dataclass(frozen=True)
class Series:
    """A case on one machine class: its runs, oldest first, and the steps between those that can be compared; of steps
    between runs that are no neighbours, those that are marked.
    """

    case: str
    machine: str
    runs: tuple[Past, ...]
    steps: tuple[Step, ...]

    @property
    def changes(self) -> list[Step]:
        """Steps that are marked."""
        return [step for step in self.steps if step.changed]

    @property
    def regression(self) -> Step | None:
        """The last change for the worse that the newest run has not made good; None when there is none.

        Made good: the newest run has won back at least half of the images, or is of other images, which is a new
        beginning.
        """
        for step in reversed(self.changes):
            if step.worse:
                since = _step(self.case, self.machine, step.before, self.runs[-1])
                if since is not None and since.lost - since.won > (step.lost - step.won) / 2:
                    return step
        return None


def series(runs: Sequence[Past]) -> list[Series]:
    """Every case of a history on every machine class, by name, changes marked over all of them at once."""
    by: dict[tuple[str, str], list[Past]] = {}
    for run in runs:
        for case in run.cases:
            by.setdefault((case, run.machine), []).append(run)
    steps = {key: [_step(*key, *pair) for pair in pairwise(found)] for key, found in by.items()}
    at = threshold([(step.lost + step.won, step.p) for found in steps.values() for step in found if step is not None])
    marked = {
        key: [step and replace(step, changed=step.p <= at) for step in found] for key, found in steps.items()
    }  # fmt: skip
    looks = [step for key, found in by.items() for step in _drifts(found, marked[key], -1.0)]
    apart = threshold([(step.lost + step.won, step.p) for step in looks])
    drifts = {key: [step for step in _drifts(found, marked[key], apart) if step.changed] for key, found in by.items()}
    return [Series(*key, tuple(found), (*filter(None, marked[key]), *drifts[key])) for key, found in sorted(by.items())]


def _drifts(runs: Sequence[Past], steps: Sequence[Step | None], at: float) -> Iterator[Step]:
    """Each run of a case compared with the first of its stretch, marked where p is at most `at`.

    A stretch begins with a run that is marked, or not of the images of the one before.
    """
    first = runs[0]
    for step, (before, after) in zip(steps, pairwise(runs), strict=True):
        if step is None or step.changed:
            first = after
        elif before is not first:
            far = _step(step.case, step.machine, first, after)
            assert far is not None  # of the same images as every run between
            far = replace(far, drift=True, changed=far.p <= at)
            first = after if far.changed else first
            yield far


def threshold(tests: Sequence[tuple[int, float]], level: float = LEVEL / 2) -> float:
    """The largest p that is significant among `tests`, (images that differ, p); -1 when none is."""
    attainable: dict[int, list[float]] = {0: []}
    for differ in {differ for differ, _ in tests if differ}:
        attainable[differ] = sorted({mcnemar(lost, differ - lost) for lost in range(differ // 2 + 1)})
    counted: dict[int, int] = {}
    for differ, _ in tests:
        counted[differ] = counted.get(differ, 0) + 1
    found = -1.0
    for rank, p in enumerate(sorted(p for _, p in tests), 1):
        if p > level:
            break
        # of each test, the largest p it can have that is no larger than this one
        expected = sum(count * _largest(attainable[differ], p) for differ, count in counted.items())
        if expected / rank <= level:
            found = p
    return found


def _largest(attainable: Sequence[float], p: float) -> float:
    place = bisect.bisect_right(attainable, p * (1 + 1e-12))
    return attainable[place - 1] if place else 0.0


def _step(case: str, machine: str, before: Past, after: Past) -> Step | None:
    """None where the two are not of the same images, or have no outcomes."""
    then, now = before.cases[case], after.cases[case]
    if any(then[name] != now[name] for name in ("metric", "n", "evaluation")) or now["evaluation"] is None:
        return None
    first, second = _right(then), _right(now)
    if first is None or second is None:
        return None
    return Step(case, machine, before, after, int((first & ~second).sum()), int((~first & second).sum()))


def _right(fields: Mapping[str, Any]) -> Any:
    return unpacked(fields["outcomes"], fields["n"])
