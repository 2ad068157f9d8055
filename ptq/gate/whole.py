"""Whole: what a run as a whole is held to, once every test has told its verdict: of one process, or of all shards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ptq.cases import Case
from ptq.gate.bars import Bars
from ptq.gate.proof import Proof
from ptq.gate.reference import References
from ptq.gate.tally import Demand, Tally


@dataclass(frozen=True)
class Whole:
    """What there is to judge, and by what.

    `cases` are all there could be; `names` all workloads and backends; `isa` is what
    `ptq.engine.environment.instruction_sets` says of the machine; `asked` is the expression of ``-m``; `skipped` counts
    by marker the tests that others let not run.
    """

    bars: Bars
    references: References
    cases: tuple[Case, ...]
    names: frozenset[str]
    isa: tuple[str, ...]
    asked: str
    skipped: Mapping[str, int]

    def gaps(self, tally: Tally, demand: Demand) -> list[str]:
        """One line for each reason why less was judged than should have been, or by no bar."""
        lines = tally.complaints(self.names, demand)
        if tally.gates:
            lines += self.bars.check(case.id for case in self.cases) + self._skipped_by_others(tally)
        return lines

    def proof(self, tally: Tally, demand: Demand) -> tuple[list[str], list[str]]:
        """(why the verdicts prove nothing, what a reader should know all the same), a line each."""
        proof = Proof(self.bars, self.cases, tally, self.isa)
        complaints, notes = proof.complaints() if tally.gates else [], proof.notes()
        if tally.results:
            ids = [case.id for case in self.cases]
            gaps = self.references.gaps([result.case.id for result in tally.judged], ids)
            gaps += self.references.elsewhere(tally.judged)
            (complaints if demand.strict else notes).extend(gaps)
        return complaints, notes

    def _skipped_by_others(self, tally: Tally) -> list[str]:
        """A line for each gate that ``-m`` names and of which others let nothing run."""
        ran = {
            "accuracy": tally.judged, "structure": tally.structures, "latency": tally.timings,
            "preprocessing": tally.checked,
        }  # fmt: skip
        return [
            f"-m {gate}: none of its tests was run: {self.skipped[gate]} were skipped by a mark or by another plugin"
            for gate, found in ran.items()
            if self.skipped.get(gate) and not found and asks(self.asked, gate)
        ]


def asks(expression: str, marker: str) -> bool:
    """Whether an expression of ``-m`` asks for a marker by name."""
    return marker in re.findall(r"\w+", re.sub(r"\bnot\s+\w+", "", expression))
