"""Gate: what makes a whole run red although no single test did. Pure functions of what was seen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ptq.result import Result


@dataclass(frozen=True)
class Demand:
    """What a run was asked for: names of workloads or backends that must be judged, and how many cases at least."""

    required: tuple[str, ...] = ()
    min_cases: int = 0


def complaints(results: Sequence[Result], checked: Collection[str], known: Collection[str], demand: Demand) -> list[str]:
    """One line for each reason why the run proves less than it was asked to.

    `results` are all cases of the run, `checked` the workloads whose preprocessing was checked, `known` every
    workload and backend there is.
    """
    judged = [each for each in results if each.judged]
    ran = {each.case.workload for each in judged} | {each.case.backend for each in judged} | set(checked)
    lines = []
    for name in demand.required:
        if name not in known:
            lines.append(f"--ptq-require {name}: no such workload or backend; there are {', '.join(sorted(known))}")
        elif name not in ran:
            reasons = sorted({each.reason for each in results if name in (each.case.workload, each.case.backend)})
            why = "; ".join(reasons) or "no test of it was selected"
            lines.append(f"--ptq-require {name}: nothing of it was judged ({why})")
    if results and not judged:
        lines.append(f"no case was judged: all {len(results)} selected were not run, so this run proves nothing")
    if len(judged) < demand.min_cases:
        lines.append(f"--ptq-min-cases {demand.min_cases}: only {len(judged)} cases were judged; was a test id renamed?")
    return lines
