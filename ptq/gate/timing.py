"""Timing: what a race gave, and what the case's bar makes of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from ptq.cases import Case
from ptq.gate.bars import Bar
from ptq.gate.verdict import FAIL, PASS, Verdict, judge_ratio
from ptq.latency.race import BASE, Race, Times, executed
from ptq.latency.ratio import SAME, Ratio


@dataclass(frozen=True)
class Timing:
    """What a race gave; fields as in `Race`. `finding` says where the clocks or the threads tell different ratios;
    `rival` is the id of the case it ran against, `fastest` that of the fastest float case of any runtime, None where
    it took no part.
    """

    case: Case
    stands_for: tuple[str, ...]
    batch: int
    against: str
    times: Times
    verdict: Verdict
    executed: str
    finding: str | None
    rival: str | None = None
    fastest: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Flat, as the report's ``latency`` has it; ``ratio`` is time / time of the other, below 1 is faster."""
        one, many = self.times.one, self.times.many
        return {
            "id": self.case.id,
            **self.case.fields(),
            "stands_for": list(self.stands_for),
            "batch": self.batch,
            "against": self.against,
            **_numbers("", one),
            "confidence": one.confidence,
            "rounds": one.rounds,
            "seconds": one.seconds + (0.0 if many is None else many.seconds),
            "speedup": one.speedup,
            **_numbers("wall_", one.wall or one),
            "threads": self.times.threads,
            **_numbers("threads_", many),
            "rival": self.rival,
            "fastest_fp32": self.fastest,
            **_numbers("fastest_fp32_", self.times.fastest),
            "finding": self.finding,
            "verdict": self.verdict.name,
            "reason": self.verdict.reason,
            "red": self.verdict.red,
            "executed": self.executed,
        }


def judge_race(race: Race, times: Times, bar: Bar, isa: Collection[str]) -> Timing:
    """The ratios a race gave, held to the case's bar; against another revision to the race's own limit.

    The processor's time on one thread decides first. By the wall clock, and on all threads, a ratio fails where it is
    beyond the bar and apart from the first by more than noise explains.
    """
    if race.against == BASE:
        bar = replace(bar, min_speedup=None, max_ratio=race.limit, max_ratio_fastest_fp32=None, expected_failure=())
    name, one, many = f"{race.case.id} batch {race.batch} against {race.against}", times.one, times.many
    verdict, findings = judge_ratio(name, one, bar, isa), []
    if one.wall is not None and (one.waits or 1 / one.gap[1] > SAME):
        findings.append((f"{name}, by the wall clock", one.wall, _cause(race, one, one.wall)))
    if many is not None and many.low > SAME * one.high:  # a float model that gains less by threads harms nobody
        findings.append((f"{name}, on {times.threads} threads", many, f"{race.case.id} gains less by threads"))
    for title, ratio, cause in findings:
        beyond = judge_ratio(title, ratio, bar, isa)
        if verdict.name != FAIL and beyond.name == FAIL:
            verdict = replace(
                beyond, reason=f"{beyond.reason}; on one thread processor time says {one.value:.3f}: {cause}"
            )
    told = [
        f"{title}: time ratio {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}], but processor time on one thread "
        f"says {one.value:.3f} [{one.low:.3f}, {one.high:.3f}]: {cause}"
        for title, ratio, cause in findings
    ]
    finding = "; ".join(told) or None
    if verdict.name != FAIL and (slower := _against_fastest(race, times, bar, isa)) is not None:
        verdict = slower
    return Timing(
        case=race.case,
        stands_for=race.stands_for,
        batch=race.batch,
        against=race.against,
        times=times,
        verdict=verdict,
        executed=executed(race.census),
        finding=finding,
        rival=None if race.rival is None else race.rival.id,
        fastest=None if race.fastest is None else race.fastest.case.id,
    )


def _against_fastest(race: Race, times: Times, bar: Bar, isa: Collection[str]) -> Verdict | None:
    """The verdict on the ratio to the fastest float model where it does not pass, by processor time or the wall clock;
    None where it passes or the bar demands nothing of it.
    """
    if bar.max_ratio_fastest_fp32 is None:
        return None
    if race.fastest is None or times.fastest is None:
        line = f"{race.case.id} batch {race.batch}: no float model of any runtime could be timed"
        return Verdict(FAIL, f"{line}, but max_ratio_fastest_fp32 demands a race against the fastest", red=True)
    held = replace(bar, min_speedup=None, max_ratio=bar.max_ratio_fastest_fp32)
    name, ratio = f"{race.case.id} batch {race.batch} against the fastest fp32, {race.fastest.case.id}", times.fastest
    found = [judge_ratio(name, ratio, held, isa)]
    if ratio.wall is not None and ratio.waits:
        found.append(judge_ratio(f"{name}, by the wall clock", ratio.wall, held, isa))
    worst = max(found, key=lambda each: (each.red, each.name == FAIL, each.name != PASS))
    return None if worst.name == PASS else worst


def _cause(race: Race, one: Ratio, wall: Ratio) -> str:
    """Why the clocks differ: one model waits, or the other runs on more threads than it was told."""
    who, whose = (race.case.id, race.against) if one.waits else (race.against, race.case.id)
    busy = {
        race.case.id: wall.other_ms / one.other_ms,
        race.against: wall.reference_ms / one.reference_ms,
    }  # 1 where a model computes all the time, on one thread
    return f"{who} waits (sleep, I/O, a lock)" if busy[whose] > 0.8 else f"{whose} runs on more than one thread"


def _numbers(name: str, ratio: Ratio | None) -> dict[str, float | None]:
    """Ratio, interval, and ms of both."""
    of = {"ratio": "value", "low": "low", "high": "high", "reference_ms": "reference_ms", "other_ms": "other_ms"}
    return {f"{name}{key}": None if ratio is None else getattr(ratio, field) for key, field in of.items()}
