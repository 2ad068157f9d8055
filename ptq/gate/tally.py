"""Tally: what a whole run gathered from its tests, in this process or from workers, and what it adds up to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ptq.cases import FP32
from ptq.gate.result import Result

GATE, RESULT, STRUCTURE, TIMING, CHECKED, ABSENT, SPEED = (
    "ptq_gate", "ptq", "ptq_structure", "ptq_latency", "ptq_checked", "ptq_not_run", "speed"
)  # fmt: skip
"""Names of the properties a test leaves on its report; they survive xdist."""


@dataclass(frozen=True)
class Demand:
    """What a run was asked for: names of workloads or backends that must be judged, how many cases at least, and
    whether every judged case must have a reference and every reference a case.
    """

    required: tuple[str, ...] = ()
    min_cases: int = 0
    strict: bool = False

    def __bool__(self) -> bool:
        return bool(self.required or self.min_cases or self.strict)


@dataclass
class Tally:
    """`results` by case id; `structures` and `timings` as JSON by what they are of; `checked` workloads whose
    preprocessing was checked; `gates` how many of ptq's tests ran or were skipped; `absent` counts why those that leave
    no result did not run; `speed` is what ptq's own benchmark measured, by name.
    """

    results: dict[str, Result] = field(default_factory=dict)
    structures: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    timings: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)
    gates: int = 0
    absent: Counter[str] = field(default_factory=Counter)
    speed: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def add(self, properties: Iterable[tuple[str, object]]) -> list[Mapping[str, Any]]:
        """Take the properties of one test's report; returns what was judged in it, as JSON."""
        given, judged = list(properties), []
        if RESULT not in (name for name, _ in given):
            self.absent.update(str(value) for name, value in given if name == ABSENT)
        for name, value in given:
            if name == GATE:
                self.gates += 1
            elif name in (RESULT, STRUCTURE, TIMING):
                found = json.loads(str(value))
                judged.append(found)
                if name == RESULT:
                    result = Result.from_json(found)
                    self.results[result.case.id] = result
                elif name == STRUCTURE:
                    self.structures[found["id"]] = found
                else:
                    self.timings[f"{found['id']} {found['batch']} {found['against']}"] = found
            elif name == CHECKED:
                self.checked.add(str(value))
            elif name == SPEED:
                found = json.loads(str(value))
                self.speed[found["name"]] = {"value": found["value"], "bar": found["bar"]}
        return judged

    def __bool__(self) -> bool:
        return bool(self.gates or self.checked or self.speed)

    @property
    def judged(self) -> list[Result]:
        """Results that were measured."""
        return [result for result in self.results.values() if result.judged]

    @property
    def ran(self) -> set[str]:
        """Every workload and backend something was judged of."""
        return _named(self._seen) | self.checked

    @property
    def quantized(self) -> set[str]:
        """Every workload and backend a quantized case was judged of."""
        return _named(found for found in self._seen if found["dtype"] != FP32)

    @property
    def _seen(self) -> list[Mapping[str, Any]]:
        cases = [result.case.fields() for result in self.judged]
        return [*cases, *self.structures.values(), *self.timings.values()]

    def complaints(self, known: Collection[str], demand: Demand) -> list[str]:
        """One line for each reason why the run proves less than it was asked to; `known` are all workloads and
        backends there are.
        """
        lines = []
        for name in demand.required:
            if name not in known:
                lines.append(f"--ptq-require {name}: no such workload or backend; there are {', '.join(sorted(known))}")
                continue
            asked = [result for result in self.results.values() if name in (result.case.workload, result.case.backend)]
            absent = [result for result in asked if not result.judged]
            # a checked or timed workload none of whose selected cases has an accuracy is a gate that is off
            if name in self.ran - self.quantized - self.checked:
                lines.append(f"--ptq-require {name}: only its float cases were judged, which no quantization can fail")
            elif name not in self.ran or (asked and absent == asked):
                why = "; ".join(sorted({result.reason for result in absent})) or "no test of it was selected"
                lines.append(f"--ptq-require {name}: nothing of it was judged ({why})")
        timed = {str(race["id"]) for race in self.timings.values()}
        judged = len({result.case.id for result in self.judged} | set(self.structures) | timed)
        if self.gates and not judged and not self.checked:
            lines.append(f"no case was judged: all {self.gates} selected were not run, so this run proves nothing")
        if judged < demand.min_cases:
            lines.append(f"--ptq-min-cases {demand.min_cases}: only {judged} cases were judged; was a test id renamed?")
        return lines

    def rows(self) -> dict[str, Any]:
        """What the machine-readable report is made of: ``results, latency, structure, speed``, as JSON."""
        return {
            "results": [result.as_json() for result in self.results.values()],
            "latency": list(self.timings.values()),
            "structure": list(self.structures.values()),
            "speed": self.speed,
        }


def _named(found: Iterable[Mapping[str, Any]]) -> set[str]:
    return {str(each[name]) for each in found for name in ("workload", "backend")}
