"""The `judge` fixture: measures, records for the report, and passes, fails, xfails or skips the test."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import pytest

from ptq.cases import Case
from ptq.checks.look import looked
from ptq.checks.preprocessing import Check
from ptq.errors import NoData, NotInstalled, PtqError, Unsupported
from ptq.gate.result import FAIL, NO_DATA, NOT_INSTALLED, UNSUPPORTED, Result
from ptq.gate.tally import ABSENT, CHECKED, GATE, RESULT, STRUCTURE, TIMING
from ptq.gate.verdict import Verdict
from ptq.latency.race import Race
from ptq.plugin.judging import judge_of
from ptq.plugin.options import benchmarks_disabled, selected
from ptq.plugin.sharding import neighbour

T = TypeVar("T")

NO_LATENCY = (
    "latency is never distributed: two times compare on one machine that does nothing else; run -m latency without it"
)


class CaseJudge:
    """The `judge` fixture: measures, records for the report, and passes, fails, xfails or skips the test."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._config = request.config
        self._judge = judge_of(request.config)
        self._required = frozenset(request.config.getoption("ptq_require"))
        self._properties = request.node.user_properties

    @property
    def asked(self) -> bool:
        """Whether anything was asked of it."""
        return any(name == GATE for name, _ in self._properties)

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """How many files the store made, fetched and found so far, by (kind, ``made``, ``fetched`` or ``found``)."""
        return Counter(self._judge.store.counts)

    @property
    def faults(self) -> dict[str, str]:
        """What is amiss with the remote store so far: a line each, by what it is about."""
        remote = self._judge.store.remote
        return {} if remote is None else dict(remote.faults)

    def __call__(self, case: Case) -> Result:
        """The result of `case`; fails the test in one line when it is under its bar or significantly worse than its
        reference, skips it when it was not run.
        """
        self._properties.append((GATE, case.id))
        with _failing_in_one_line(case.id):
            result = self._judge.result(case)
            if self._config.getoption("ptq_update") and not result.void:
                result = replace(result, red=False)
            if result.judged and (folder := self._config.getoption("ptq_artifacts")):
                self._judge.save(case, self._config.invocation_params.dir / folder)
        self._properties.append((RESULT, json.dumps(result.as_json(), allow_nan=False)))
        if not result.judged:
            self._not_run(case, result.verdict, result.not_run)
        if result.red:
            _fail("\n".join([result.failure, *self._why(case)]))
        if result.verdict == FAIL:
            _expected(result.reason)
        return result

    def structure(self, case: Case) -> None:
        """Judge what of the case really runs in integer against ``min_integer_share``."""
        self._properties.append((GATE, case.id))
        with _failing_in_one_line(case.id):
            found = self._measured(case, lambda: self._judge.structure(case))
        self._properties.append((STRUCTURE, json.dumps(found.as_json())))
        self._end(found.verdict)

    def latency(self, case: Case, batch: int, benchmark: Any) -> None:
        """Race the case in batches of `batch`; `benchmark` is pytest-benchmark's fixture.

        What that keeps, shows and compares are the ratio and its interval as if they were seconds.
        """
        self._properties.append((GATE, case.id))
        with _failing_in_one_line(case.id):
            race = self._ready(case, batch, benchmark)
            benchmark.extra_info.update(race.facts)
            benchmark.pedantic(race.predict, args=(race.inputs,), rounds=1, iterations=1)
            timing = self._judge.timing(race)
            measured = timing.as_json()
        told = ("against", "ratio", "low", "high", "verdict", "other_ms", "reference_ms")
        benchmark.extra_info.update({name: measured[name] for name in told})
        # what pytest-benchmark compares between runs is the ratio, not a time that moves with the machine
        benchmark.group = f"time ratio: 1 s is the time of {measured['against']}"
        benchmark.stats.stats.data = [measured[name] for name in ("low", "ratio", "high")]
        self._properties.append((TIMING, json.dumps(measured)))
        self._end(timing.verdict)

    def check(self, workload: str, check: Check) -> None:
        """Run one preprocessing check of a workload; fails the test with the check's own line."""
        self._properties.append((GATE, workload))
        try:
            looked(self._judge.pipelines[workload], check)
        except (NoData, NotInstalled) as absent:
            self._not_run(workload, NO_DATA, str(absent))
        except Unsupported as reason:
            pytest.skip(f"{check.name}: does not apply: {reason}")
        except PtqError as error:
            _fail(f"{workload}: {check.name}: {error}")
        self._properties.append((CHECKED, workload))

    def _why(self, case: Case) -> list[str]:
        """With ``--ptq-explain``, the line that says which tensor is bad and why."""
        if not self._config.getoption("ptq_explain") or case.is_float:
            return []
        from ptq.diagnosis.gather import explain

        try:
            return [explain(self._judge.pipelines[case.workload], case).sentence]
        except PtqError as error:  # the verdict stands without it
            return [f"not explained: {error}"]

    def _ready(self, case: Case, batch: int, benchmark: Any) -> Race:
        base = self._config.getoption("ptq_against")
        folder = self._config.invocation_params.dir / base if base else None
        new = self._config.getoption("ptq_allow_new")
        try:
            if self._config.getoption("ptq_dask"):
                _fail(f"{case.id}: --ptq-dask: {NO_LATENCY}")
            if self._config.getoption("ptq_shard") and (other := neighbour()) is not None:
                _fail(
                    f"{case.id}: latency on a shard that shares its machine (process {other} runs another): each would "
                    "time the other's load; give latency a machine of its own"
                )
            if not (disabled := benchmarks_disabled(self._config)):
                return self._measured(case, lambda: self._judge.race(case, batch, folder, new))
            if selected(self._config, "latency"):
                _fail(f"{case.id}: -m latency, but {disabled}: nothing would be measured; use -n 0, with benchmarks")
            self._properties.append((ABSENT, f"latency: {disabled}"))
            pytest.skip(f"latency: {disabled}")
        except (PtqError, pytest.fail.Exception):
            # the fixture would add a warning, an error here, that it was not used
            benchmark.disabled = True
            benchmark.pedantic(lambda: None)
            raise

    def _measured(self, case: Case, measure: Callable[[], T]) -> T:
        try:
            return measure()
        except NotInstalled as absent:
            self._not_run(case, NOT_INSTALLED, str(absent))
        except NoData as absent:
            self._not_run(case, NO_DATA, str(absent))
        except Unsupported as reason:
            self._not_run(case, UNSUPPORTED, f"unsupported: {reason}")

    def _not_run(self, what: Case | str, verdict: str, reason: str) -> NoReturn:
        # absent data is a gap in what was asked of a workload, an absent framework in what was asked of a backend;
        # what can never be is none
        workload, backend = (what, "") if isinstance(what, str) else (what.workload, what.backend)
        name = {NO_DATA: workload, NOT_INSTALLED: backend}.get(verdict, "")
        if name in self._required:
            _fail(f"{reason} (--ptq-require {name})")
        words = "not installed: " if verdict == NOT_INSTALLED else ""
        self._properties.append((ABSENT, words + reason.removeprefix(words)))
        pytest.skip(reason)

    def _end(self, verdict: Verdict) -> None:
        if verdict.red:
            _fail(verdict.reason)
        if verdict.name == FAIL:
            _expected(verdict.reason)


@contextmanager
def _failing_in_one_line(name: str) -> Iterator[None]:
    """Turn what a user can mend into a failure that names the case, without a traceback."""
    try:
        yield
    except PtqError as error:
        _fail(str(error) if str(error).startswith(name) else f"{name}: {error}")


def _expected(reason: str) -> NoReturn:
    """xfail, without a traceback that nobody is shown and pytest reads source files for."""
    raise pytest.xfail.Exception(reason, pytrace=False)


def _fail(reason: str) -> NoReturn:
    # without a cause: the message says it already, and pytest would print both
    raise pytest.fail.Exception(reason, pytrace=False) from None
