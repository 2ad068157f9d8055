"""Proof: what the verdicts of a run prove of the bars; a gate that can only be green is none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ptq.cases import Case
from ptq.errors import PtqError
from ptq.gate.bars import Bar, Bars
from ptq.gate.tally import Tally
from ptq.gate.verdict import COLLAPSED, PASS, UNRESOLVED
from ptq.latency.race import BASE

KEYS = {"structure": ("min_integer_share",), "latency": ("min_speedup", "max_ratio")}
"""The keys of a bar that only one gate holds anything to, by gate."""


@dataclass(frozen=True)
class Held:
    """One verdict and the bar behind it. `decides`: whether the verdict could have been red."""

    gate: str
    id: str
    verdict: str
    bar: Bar
    decides: bool
    red: bool


class Proof:
    """What a run's verdicts prove of `bars`; `cases` are all there could be, and `isa` is what
    `ptq.engine.environment.instruction_sets` says.
    """

    def __init__(self, bars: Bars, cases: Iterable[Case], tally: Tally, isa: Collection[str]) -> None:
        self._bars = bars
        self._cases = {case.id: case for case in cases}
        self._tally = tally
        self._isa = isa
        self._held = list(self._verdicts())

    def complaints(self) -> list[str]:
        """One line for each reason why the bars or the verdicts hold nothing."""
        lines = self._unread()
        lines += [line for gate in KEYS if (line := self._unheld(gate)) and not self._may_be_red()]
        open_ = [each for each in self._held if each.decides and each.bar.expects(each.gate, self._isa) is None]
        if open_ and all(each.verdict == UNRESOLVED and not each.red for each in open_):
            lines.append(
                f"every one of {len(open_)} verdicts is unresolved, the first: {open_[0].id}: what was measured cannot "
                "tell; bring more samples, or time, or set a bar that it can tell from"
            )
        return lines

    def notes(self) -> list[str]:
        """One line for each thing a reader should know of a run that may be green all the same."""
        lines = [line for gate in KEYS if (line := self._unheld(gate)) and self._may_be_red()]
        lines += [line for gate in KEYS if (line := self._not_selected(gate))]
        lost = [each.case.id for each in self._tally.judged if COLLAPSED in each.reason and not each.red]
        if lost:
            lines.append(f"{len(lost)} expected failures are no better than chance, the first: {lost[0]}")
        return lines + self._no_longer()

    def _verdicts(self) -> Iterator[Held]:
        for result in self._tally.judged:
            if not result.case.is_float:
                yield Held("accuracy", result.case.id, result.verdict, self._bars.of(result.case.id), True, result.red)
        for gate, rows in (("structure", self._tally.structures), ("latency", self._tally.timings)):
            for row in rows.values():
                if (bar := self._bar(row["id"])) is not None:
                    decides = self._decides(gate, row)
                    yield Held(gate, row["id"], row["verdict"], bar, decides, row["red"])

    def _decides(self, gate: str, row: Mapping[str, Any]) -> bool:
        if gate == "latency":
            stands = (self._bar(each) for each in row["stands_for"])
            return bool(row["against"] == BASE or any(bar and bar.ratio is not None for bar in stands))
        bar = self._bar(row["id"])
        return bar is not None and bar.min_integer_share is not None and not self._cases[row["id"]].is_float

    def _may_be_red(self) -> bool:
        return bool(self._tally.judged or self._tally.checked or any(each.decides for each in self._held))

    def _unheld(self, gate: str) -> str | None:
        """That nothing of what a gate measured has a bar."""
        measured = [each for each in self._held if each.gate == gate]
        if not measured or any(each.decides for each in measured):
            return None
        return (
            f"{gate}: none of {len(measured)} measurements has a bar, so none can be red: set {' or '.join(KEYS[gate])}"
        )

    def _not_selected(self, gate: str) -> str | None:
        """Keys of the judged cases' bars that no test of this run held anything to."""
        measured = [each for each in self._held if each.gate == gate]
        against = {row["against"] for row in self._tally.timings.values()} == {BASE} and gate == "latency"
        if measured and not against:
            return None
        bars = {each.bar for each in self._held}
        keys = [key for key in KEYS[gate] if any(getattr(bar, key) is not None for bar in bars)]
        if not keys:
            return None
        why = "all races are against --ptq-against" if against else f"no test of -m {gate} ran"
        return f"{' and '.join(keys)} in {self._bars.path.name}: not held here, {why}"

    def _unread(self) -> list[str]:
        """Keys of bars that govern float cases alone: no gate holds those to them."""
        governed: dict[Bar, list[Case]] = {}
        for case in self._cases.values():
            if (bar := self._bar(case.id)) is not None:
                governed.setdefault(bar, []).append(case)
        lines = []
        for bar, cases in governed.items():
            keys = [key for keys in KEYS.values() for key in keys if getattr(bar, key) is not None]
            if keys and all(case.is_float for case in cases):
                why = f"{keys[0]}={getattr(bar, keys[0]):g}, but governs float cases alone, which no gate holds to it"
                lines.append(str(self._bars.unusable(bar, f"{why}: remove it")))
        return lines

    def _no_longer(self) -> list[str]:
        """Entries of ``expected_failure`` whose cases passed."""
        known: dict[tuple[str, Bar], list[Held]] = {}
        for each in self._held:
            if each.bar.expects(each.gate, self._isa) is not None and (each.decides or each.gate == "accuracy"):
                known.setdefault((each.gate, each.bar), []).append(each)
        lines = []
        for (gate, bar), all_ in known.items():
            passed = [each.id for each in all_ if each.verdict == PASS]
            # on a kind of CPU some fail and some do not, and no one can mend that
            if len(passed) == len(all_) or (passed and bar.expects(gate, self._isa) == "expected"):
                lines.append(
                    f"expected_failure of {bar.pattern!r}: {gate} no longer fails for {len(passed)} of {len(all_)} "
                    f"cases, the first: {passed[0]}"
                )
        return lines

    def _bar(self, case_id: str) -> Bar | None:
        try:
            return self._bars.of(case_id)
        except PtqError:  # said elsewhere
            return None
