"""Run: what the controlling process gathers from every test, in this process or in xdist's workers."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import pytest

from ptq.engine.environment import environment, instruction_sets
from ptq.errors import BadData, PtqError
from ptq.gate.judge import Judge
from ptq.gate.proof import Proof
from ptq.gate.reference import References, load_references
from ptq.gate.tally import CHECKED, GATE, RESULT, STRUCTURE, TIMING, Demand, Tally
from ptq.plugin.judging import judge_of
from ptq.plugin.options import selected
from ptq.report import html, markdown
from ptq.report import json as json_report
from ptq.report.table import table
from ptq.report.timings import places

MADE = "ptq_made"
"""Name of the property that says what the store made and found for a test."""


class Run:
    """What the controlling process gathers from every test, in this process or in xdist's workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tally = Tally()
        self._store: Counter[tuple[str, str]] = Counter()
        self._complaints: list[str] = []
        self._notes: list[str] = []
        self._skipped: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._tally.add(report.user_properties)
            if report.outcome != "failed":
                self._complaints += _swallowed(report)
        elif report.when == "teardown":
            for name, value in report.user_properties:
                if name == MADE:
                    for kind, what, number in json.loads(str(value)):
                        self._store[what, kind] += number
        elif report.when == "setup" and not report.passed and "ptq" in report.keywords:
            self._tally.add([(GATE, report.nodeid)])  # skipped by others, e.g. --benchmark-skip
            self._skipped.update(report.keywords)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        option = self._config.getoption
        demand = Demand(tuple(option("ptq_require")), option("ptq_min_cases"), option("ptq_strict"))
        if not (self._tally or demand) or self._config.option.collectonly:
            return
        try:
            self._finish(judge_of(self._config), demand)
        except (PtqError, pytest.Collector.CollectError) as error:
            self._complaints.append(str(error))
        except pytest.skip.Exception:  # there is no judge, which the terminal says already
            pass
        content = json_report.report(**self._tally.rows(), environment=environment())
        here = self._config.invocation_params.dir
        writers = (
            (option("ptq_json"), json_report.write),
            (option("ptq_html"), html.write),
            (os.environ.get("GITHUB_STEP_SUMMARY"), markdown.append),
        )
        for path, write in writers:
            try:
                if path:
                    write(here / path, content)
            except OSError as error:  # the verdicts are shown all the same
                self._complaints.append(f"{path}: the report cannot be written ({error.strerror or error})")
        if self._complaints and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _finish(self, judge: Judge, demand: Demand) -> None:
        ids = [case.id for case in judge.cases()]
        self._complaints += self._tally.complaints({*judge.pipelines, *judge.registry.backends}, demand)
        if self._tally.gates:
            self._complaints += judge.bars.check(ids)
            self._complaints += self._skipped_by_others()
        updates = self._config.getoption("ptq_update")
        if not updates:
            proof = Proof(judge, self._tally, instruction_sets())
            self._complaints += proof.complaints() if self._tally.gates else []
            self._notes += proof.notes()
        if not self._tally.results:
            return
        if updates:
            path = judge.references.path
            try:
                known = load_references(path)
            except BadData:  # remaking it is the remedy
                known = References(path)
            known.updated(self._tally.judged, environment(), ids).save()
            kept = [result for result in self._tally.judged if not result.void]
            self._notes.append(f"wrote {path.name} with {len(kept)} measured cases; none of them was failed")
            return
        gaps = judge.references.gaps([result.case.id for result in self._tally.judged], ids)
        gaps += judge.references.elsewhere(self._tally.judged)
        (self._complaints if demand.strict else self._notes).extend(gaps)

    def _skipped_by_others(self) -> list[str]:
        """A line for each gate that ``-m`` names and of which others let nothing run."""
        tally = self._tally
        ran = {
            "accuracy": tally.judged, "structure": tally.structures, "latency": tally.timings,
            "preprocessing": tally.checked,
        }  # fmt: skip
        return [
            f"-m {gate}: none of its tests was run: {self._skipped[gate]} were skipped by a mark or by another plugin"
            for gate, found in ran.items()
            if self._skipped[gate] and not found and selected(self._config, gate)
        ]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        writer, tally = terminalreporter._tw, self._tally
        if tally:
            terminalreporter.section("ptq")
        if tally.results:
            results, races = list(tally.results.values()), list(tally.timings.values())
            # a file or a log has no width of its own: nothing is left out there
            width = writer.fullwidth if writer.hasmarkup else max(160, writer.fullwidth)
            terminalreporter.write(table(results, width, bool(writer.hasmarkup), races))
        for line in [*tally.lines(), *map(str, places(list(tally.timings.values())))]:
            terminalreporter.write_line(line)
        if self._store:
            terminalreporter.write_line(
                f"ptq: store: {_counted(self._store, 'made')}, {_counted(self._store, 'found')}"
            )
        for line in self._notes:
            terminalreporter.write_line(f"ptq: {line}")
        for line in self._complaints:
            terminalreporter.write_line(f"ptq: {line}", red=True)


def _swallowed(report: pytest.TestReport) -> list[str]:
    """A line for every red judgement of a test that did not fail, and for one that passed without any verdict."""
    told = Counter(name for name, _ in report.user_properties)
    judged = [json.loads(str(value)) for name, value in report.user_properties if name in (RESULT, STRUCTURE, TIMING)]
    lines = [
        f"{report.nodeid}: {report.outcome}, but {found['id']} is red: the test swallows the failure of judge"
        for found in judged
        if found.get("red")
    ]
    if report.outcome == "passed" and told[GATE] > sum(told[name] for name in (RESULT, STRUCTURE, TIMING, CHECKED)):
        lines.append(f"{report.nodeid}: passed, but judge came to no verdict: the test swallows what it raises")
    return lines


def _counted(store: Counter[tuple[str, str]], what: str) -> str:
    parts = {kind: number for (done, kind), number in sorted(store.items()) if done == what}
    listed = ", ".join(f"{kind} {number}" for kind, number in parts.items())
    return f"{sum(parts.values())} {what}" + (f" ({listed})" if listed and what == "made" else "")
