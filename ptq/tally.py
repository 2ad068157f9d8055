"""Tally: what a whole run gathered from its tests, in this process or from workers, and what it adds up to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ptq.environment import environment
from ptq.report import json as json_report
from ptq.result import Result

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

    def add(self, properties: Iterable[tuple[str, object]]) -> None:
        """Take the properties of one test's report."""
        given = list(properties)
        if RESULT not in (name for name, _ in given):
            self.absent.update(str(value) for name, value in given if name == ABSENT)
        for name, value in given:
            if name == GATE:
                self.gates += 1
            elif name == RESULT:
                result = Result.from_json(json.loads(str(value)))
                self.results[result.case.id] = result
            elif name == STRUCTURE:
                found = json.loads(str(value))
                self.structures[found["id"]] = found
            elif name == TIMING:
                found = json.loads(str(value))
                self.timings[f"{found['id']} {found['batch']} {found['against']}"] = found
            elif name == CHECKED:
                self.checked.add(str(value))
            elif name == SPEED:
                found = json.loads(str(value))
                self.speed[found["name"]] = {"value": found["value"], "bar": found["bar"]}

    def __bool__(self) -> bool:
        return bool(self.gates or self.checked or self.speed)

    @property
    def judged(self) -> list[Result]:
        """Results that were measured."""
        return [each for each in self.results.values() if each.judged]

    @property
    def ran(self) -> set[str]:
        """Every workload and backend something was judged of."""
        cases = [each.case.fields() for each in self.judged]
        seen = [*cases, *self.structures.values(), *self.timings.values()]
        return {str(each[name]) for each in seen for name in ("workload", "backend")} | self.checked

    def complaints(self, known: Collection[str], demand: Demand) -> list[str]:
        """One line for each reason why the run proves less than it was asked to; `known` are all workloads and
        backends there are.
        """
        lines = []
        for name in demand.required:
            if name not in known:
                lines.append(f"--ptq-require {name}: no such workload or backend; there are {', '.join(sorted(known))}")
                continue
            asked = [each for each in self.results.values() if name in (each.case.workload, each.case.backend)]
            absent = [each for each in asked if not each.judged]
            # a checked or timed workload none of whose selected cases has an accuracy is a gate that is off
            if name not in self.ran or (asked and absent == asked):
                why = "; ".join(sorted({each.reason for each in absent})) or "no test of it was selected"
                lines.append(f"--ptq-require {name}: nothing of it was judged ({why})")
        judged = len(self.judged) + len(self.structures) + len(self.timings)
        if self.gates and not judged and not self.checked:
            lines.append(f"no case was judged: all {self.gates} selected were not run, so this run proves nothing")
        if judged < demand.min_cases:
            lines.append(f"--ptq-min-cases {demand.min_cases}: only {judged} cases were judged; was a test id renamed?")
        return lines

    def report(self) -> dict[str, Any]:
        """The machine-readable report, `ptq.report.json`."""
        results = [each.as_json() for each in self.results.values()]
        return json_report.report(
            results,
            environment(),
            latency=list(self.timings.values()),
            structure=list(self.structures.values()),
            speed=self.speed,
        )

    def lines(self) -> list[str]:
        """One line each for what was timed and what was counted, as the terminal shows them."""
        content = self.report()
        shown = [
            f"{each['id']} batch {each['batch']}: {each['speedup']:.2f}x the speed of {each['against']} "
            f"({100 * each['confidence']:g} % {1 / each['high']:.2f} .. {1 / each['low']:.2f}), "
            f"{each['other_ms']:.3g} ms against {each['reference_ms']:.3g} ms; {each['executed']}; {each['verdict']}"
            for each in content["latency"]
        ]
        shown += [str(each["reason"]) for each in content["structure"]]
        return shown + [f"{count} not run: {reason}" for reason, count in sorted(self.absent.items())]
