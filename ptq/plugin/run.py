"""Run: what the controlling process gathers from every test, in this process or in xdist's workers."""

from __future__ import annotations

import gc
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ptq.engine.environment import environment, instruction_sets
from ptq.engine.timetable import remember
from ptq.errors import BadData, PtqError, one_line
from ptq.gate.bars import GATES
from ptq.gate.judge import Judge
from ptq.gate.reference import References, load_references
from ptq.gate.tally import CHECKED, GATE, Demand, Tally
from ptq.gate.whole import Whole
from ptq.plugin.fetching import Fetching
from ptq.plugin.judging import judge_of
from ptq.plugin.sharding import Sharding
from ptq.report import history, html, markdown
from ptq.report import json as json_report
from ptq.report.findings import lines
from ptq.report.plain import plain
from ptq.report.ship import ship
from ptq.report.table import table

MADE = "ptq_made"
"""Name of the property that says what the store made and found for a test."""
FAULTS = "ptq_faults"
"""Name of the property that says what is amiss with the remote store."""


class Run:
    """What the controlling process gathers from every test, in this process or in xdist's workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tally = Tally()
        self._store: Counter[tuple[str, str]] = Counter()
        self._faults: dict[str, str] = {}
        self._complaints: list[str] = []
        self._notes: list[str] = []
        self._skipped: Counter[str] = Counter()
        self._ran: list[str] = []
        self._failed: list[list[str]] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        gc.freeze()  # what was collected stays to the end: to look for garbage among it is a tenth of a warm run

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.append([report.nodeid, one_line(report.longreprtext.strip().rpartition("\n")[2], 1000)])
        if report.when == "call":
            judged = self._tally.add(report.user_properties)
            if report.outcome != "failed":
                self._complaints += _swallowed(report, judged)
        elif report.when == "teardown":
            self._ran.append(report.nodeid)
            for name, value in report.user_properties:
                if name == MADE:
                    for kind, what, number in json.loads(str(value)):
                        self._store[what, kind] += number
                elif name == FAULTS:  # of several workers, the first that says so
                    self._faults = {**json.loads(str(value)), **self._faults}
        elif report.when == "setup" and not report.passed and "ptq" in report.keywords:
            self._tally.add([(GATE, report.nodeid)])  # skipped by others, e.g. --benchmark-skip
            self._skipped.update(report.keywords)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        option = self._config.getoption
        demand = Demand(tuple(option("ptq_require")), option("ptq_min_cases"), option("ptq_strict"))
        sharded = bool(option("ptq_shard"))
        if not (self._tally or demand or sharded) or self._config.option.collectonly:
            return
        sharding: Sharding | None = self._config.pluginmanager.get_plugin("ptq-sharding")
        more: dict[str, Any] = {}
        try:
            judge = judge_of(self._config)
            if sharding is None:
                self._finish(judge, demand)
            else:  # what a shard cannot know is held by `ptq merge`
                if sharding.whole and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
                    session.exitstatus = pytest.ExitCode.OK
                self._notes.append(
                    f"shard {sharding.shard}: {len(sharding.own)} of {len(sharding.whole)} tests; "
                    "ptq merge judges the whole"
                )
                more = {"shard": self._part(judge, sharding, int(session.exitstatus))}
            if judge.store.remote is not None:
                remember(judge.store.remote, _seconds(self._tally))
        except (PtqError, pytest.Collector.CollectError) as error:
            self._complaints.append(str(error))
        except pytest.skip.Exception:  # there is no judge, which the terminal says already
            pass
        content = {**json_report.report(**self._tally.rows(), environment=environment()), **more}
        here = self._config.invocation_params.dir
        if where := option("ptq_history"):
            self._remember(where if "://" in where else here / where, content)
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

    def _remember(self, where: str | Path, content: dict[str, Any]) -> None:
        """Append the run to a history; that it could not is a complaint, since a gate may stand on it."""
        if not content["results"] and not content["latency"]:
            return
        try:
            history.append(where, history.past(content, history.commit_of(self._config.rootpath)))
        except (PtqError, OSError) as error:
            self._complaints.append(f"--ptq-history {where}: {one_line(error)}")

    def _finish(self, judge: Judge, demand: Demand) -> None:
        option = self._config.getoption
        whole = Whole(
            bars=judge.bars,
            references=judge.references,
            cases=tuple(judge.cases()),
            names=frozenset({*judge.pipelines, *judge.registry.backends}),
            isa=instruction_sets(),
            asked=self._config.option.markexpr,
            skipped=self._skipped,
        )
        self._complaints += whole.gaps(self._tally, demand)
        if not option("ptq_update"):
            complaints, notes = whole.proof(self._tally, demand)
            self._complaints += complaints
            self._notes += notes
        elif self._tally.results:
            path = judge.references.path
            try:
                known = load_references(path)
            except BadData:  # remaking it is the remedy
                known = References(path)
            known.updated(self._tally.judged, environment(), [case.id for case in whole.cases]).save()
            kept = [result for result in self._tally.judged if not result.void]
            self._notes.append(f"wrote {path.name} with {len(kept)} measured cases; none of them was failed")

    def _part(self, judge: Judge, sharding: Sharding, code: int) -> dict[str, Any]:
        """What this shard tells of itself, see `ptq.report.shards`."""
        return {
            **sharding.told(judge),
            "ran": sorted(self._ran),
            "checked": sorted(self._tally.checked),
            "gates": self._tally.gates,
            "absent": dict(self._tally.absent),
            "skipped": {name: self._skipped[name] for name in GATES if self._skipped[name]},
            "exit": code,
            "failed": self._failed,
            "complaints": self._complaints,
        }

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        writer, tally = terminalreporter._tw, self._tally
        if tally:
            terminalreporter.ensure_newline()
            terminalreporter.section("ptq")
        races = sorted(tally.timings.values(), key=lambda race: (race["id"], race["against"], race["batch"]))
        if tally.results:
            results = list(tally.results.values())
            # a file or a log has no width of its own: nothing is left out there
            width = writer.fullwidth if writer.hasmarkup else max(160, writer.fullwidth)
            terminalreporter.write(table(results, width, bool(writer.hasmarkup), races))
        rows = tally.rows()
        for line in lines(tally):
            terminalreporter.write_line(line)
        before: Fetching | None = self._config.pluginmanager.get_plugin("ptq-fetching")
        self._store.update(before.counts if before is not None else {})
        if self._store:
            terminalreporter.write_line(
                f"ptq: store: {_counted(self._store, 'made')}, {_counted(self._store, 'found')}"
                + (f", {_counted(self._store, 'fetched')}" if any(how == "fetched" for how, _ in self._store) else "")
            )
        for line in before.lines if before is not None else ():
            terminalreporter.write_line(f"ptq: {line}")
        for line in self._faults.values():
            terminalreporter.write_line(f"ptq: {line}")
        for line in self._notes:
            terminalreporter.write_line(f"ptq: {line}")
        for line in self._complaints:
            terminalreporter.write_line(f"ptq: {line}", red=True)
        for line in ship(rows["results"], races):  # the answer is what is read last
            terminalreporter.write_line(plain(line), bold=True)


def _swallowed(report: pytest.TestReport, judged: list[Mapping[str, Any]]) -> list[str]:
    """A line for every red judgement of a test that did not fail, and for one that passed without any verdict."""
    told = Counter(name for name, _ in report.user_properties)
    lines = [
        f"{report.nodeid}: {report.outcome}, but {found['id']} is red: the test swallows the failure of judge"
        for found in judged
        if found.get("red")
    ]
    if report.outcome == "passed" and told[GATE] > len(judged) + told[CHECKED]:
        lines.append(f"{report.nodeid}: passed, but judge came to no verdict: the test swallows what it raises")
    return lines


def _seconds(tally: Tally) -> dict[str, tuple[float, float]]:
    """What judged cases took: calibration, and all else."""
    return {
        result.case.id: (
            result.seconds.get("calibrate") or 0.0,
            sum(result.seconds.get(name) or 0.0 for name in ("quantize", "evaluate")),
        )
        for result in tally.judged
    }


def _counted(store: Counter[tuple[str, str]], what: str) -> str:
    parts = {kind: number for (done, kind), number in sorted(store.items()) if done == what}
    listed = ", ".join(f"{kind} {number}" for kind, number in parts.items())
    return f"{sum(parts.values())} {what}" + (f" ({listed})" if listed and what == "made" else "")
