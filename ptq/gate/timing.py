"""Timing: what a race gave, and what the case's bar makes of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

from ptq.cases import Case
from ptq.gate.bars import Bar
from ptq.gate.verdict import Verdict, judge_ratio
from ptq.latency.race import BASE, Race, executed
from ptq.latency.ratio import Ratio


@dataclass(frozen=True)
class Timing:
    """What a race gave; fields as in `Race`."""

    case: Case
    stands_for: tuple[str, ...]
    batch: int
    against: str
    ratio: Ratio
    verdict: Verdict
    executed: str

    def as_json(self) -> dict[str, Any]:
        """Flat, as the report's ``latency`` has it; ``ratio`` is time / time of the other, below 1 is faster."""
        ratio = asdict(self.ratio)
        return {
            "id": self.case.id,
            **self.case.fields(),
            "stands_for": list(self.stands_for),
            "batch": self.batch,
            "against": self.against,
            "ratio": ratio.pop("value"),
            **ratio,
            "speedup": self.ratio.speedup,
            "verdict": self.verdict.name,
            "reason": self.verdict.reason,
            "red": self.verdict.red,
            "executed": self.executed,
        }


def judge_race(race: Race, ratio: Ratio, bar: Bar, isa: Collection[str]) -> Timing:
    """The ratio a race gave, held to the case's bar; against another revision to the race's own limit."""
    if race.against == BASE:
        bar = replace(bar, min_speedup=None, max_ratio=race.limit, expected_failure=())
    verdict = judge_ratio(f"{race.case.id} batch {race.batch} against {race.against}", ratio, bar, isa)
    return Timing(race.case, race.stands_for, race.batch, race.against, ratio, verdict, executed(race.census))
