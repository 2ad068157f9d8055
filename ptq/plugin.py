"""The pytest plugin: options, the parametrized `case`, the `judge` fixture, and the report. Logic lives elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ptq import hooks
from ptq.bars import load_bars
from ptq.cases import Case
from ptq.checks import Check, subject
from ptq.environment import environment
from ptq.errors import NoData, NotInstalled, PtqError, Unsupported
from ptq.gate import Demand, complaints
from ptq.judge import Judge
from ptq.pipeline import backends
from ptq.progress import Notify
from ptq.report import json as json_report
from ptq.report.table import table
from ptq.result import FAIL, UNSUPPORTED, Result
from ptq.store import Store

_MARKERS = (
    "accuracy: judges the accuracy of a case against its bar",
    "preprocessing: checks what goes into a model",
    "slow: takes minutes; not run by default",
    "speed: benchmark of ptq itself against others; not run by default",
    "ptq(workload, backend, dtype, method, granularity, exclude): what a case is, for -m \"ptq(dtype='int8')\"",
)
_JUDGE = pytest.StashKey[Judge]()
_RUN = pytest.StashKey["Run"]()
_SCRATCH = pytest.StashKey[Path]()
_NOTIFY = pytest.StashKey[Notify]()
_RESULT, _CHECKED = "ptq", "ptq_checked"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ptq", "post-training quantization")
    group.addoption("--ptq-data", metavar="DIR", help="folder with data sets and models (default: PTQ_DATA)")
    group.addoption("--ptq-bars", metavar="FILE", help="the bars (default: tests/bars.toml, else bars.toml)")
    group.addoption(
        "--ptq-require", metavar="NAME", action="append", default=[],
        help="fail unless something of this workload or backend is judged; may be repeated",
    )  # fmt: skip
    group.addoption("--ptq-min-cases", metavar="N", type=int, default=0, help="fail unless N cases are judged")
    group.addoption("--ptq-json", metavar="PATH", help="write the results as JSON")
    group.addoption("--ptq-no-cache", action="store_true", help="make everything anew, keep nothing")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hooks)


def pytest_configure(config: pytest.Config) -> None:
    for each in _MARKERS:
        config.addinivalue_line("markers", each)
    # a copy of the descriptor, because a test's stderr is captured and its reader waits now
    terminal = open(os.dup(2), "w", encoding="utf-8", errors="replace")  # noqa: SIM115
    config.add_cleanup(terminal.close)
    config.stash[_NOTIFY] = lambda line: print(f"\nptq: {line} ...", file=terminal, flush=True)
    if config.getoption("ptq_no_cache") and not hasattr(config, "workerinput"):
        config.stash[_SCRATCH] = Path(tempfile.mkdtemp(prefix="ptq-"))
    if not hasattr(config, "workerinput"):
        run = Run(config)
        config.stash[_RUN] = run
        config.pluginmanager.register(run, "ptq-run")


def pytest_unconfigure(config: pytest.Config) -> None:
    if (scratch := config.stash.get(_SCRATCH, None)) is not None:
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where the controller's throw-away store is: they share it."""
    if (scratch := node.config.stash.get(_SCRATCH, None)) is not None:
        node.workerinput["ptq_store"] = str(scratch)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = set(metafunc.fixturenames)
    if "judge" not in wanted or not wanted & {"case", "workload"}:
        return
    judge = _judge(metafunc.config)
    if "case" in wanted:
        metafunc.parametrize(
            "case", [pytest.param(case, id=case.id, marks=pytest.mark.ptq(**case.fields())) for case in judge.cases()]
        )
    if "workload" in wanted:
        metafunc.parametrize(
            "workload", [pytest.param(name, id=name, marks=pytest.mark.ptq(workload=name)) for name in judge.pipelines]
        )


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> CaseJudge:
    """Judges what a test is parametrized with: ``judge(case)``, ``judge.check(workload, check)``.

    A test that asks for `judge` and for `case` or `workload` runs once for each of them.
    """
    return CaseJudge(request)


class CaseJudge:
    """The `judge` fixture: measures, records for the report, and passes, fails, xfails or skips the test."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._judge = _judge(request.config)
        self._required = frozenset(request.config.getoption("ptq_require"))
        self._properties = request.node.user_properties

    def __call__(self, case: Case) -> Result:
        """The result of `case`; fails the test in one line when it is under its bar, skips it when it was not run."""
        try:
            result = self._judge.result(case)
        except PtqError as error:
            _fail(f"{case.id}: {error}" if not str(error).startswith(case.id) else str(error))
        self._properties.append((_RESULT, json.dumps(result.as_json(), allow_nan=False)))
        if not result.judged:
            # what can never be is no gap in what was asked for; what is merely absent is
            names = set() if result.verdict == UNSUPPORTED else {case.workload, case.backend}
            self._not_run(names, result.not_run)
        if result.red:
            _fail(result.reason)
        if result.verdict == FAIL:
            pytest.xfail(result.reason)
        return result

    def check(self, workload: str, check: Check) -> None:
        """Run one preprocessing check of a workload; fails the test with the check's own line."""
        try:
            check.run(subject(self._judge.pipelines[workload]))
        except (NoData, NotInstalled) as absent:
            self._not_run({workload}, str(absent))
        except Unsupported as reason:
            pytest.skip(f"{workload}: {check.name}: does not apply: {reason}")
        except PtqError as error:
            _fail(f"{workload}: {check.name}: {error}")
        self._properties.append((_CHECKED, workload))

    def _not_run(self, names: set[str], reason: str) -> NoReturn:
        if required := names & self._required:
            _fail(f"{reason} (--ptq-require {min(required)})")
        pytest.skip(reason)


class Run:
    """What the controlling process gathers from every test, in this process or in xdist's workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._results: dict[str, Result] = {}
        self._checked: set[str] = set()
        self._complaints: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        for name, value in report.user_properties:
            if name == _RESULT:
                result = Result.from_json(json.loads(str(value)))
                self._results[result.case.id] = result
            elif name == _CHECKED:
                self._checked.add(str(value))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        option = self._config.getoption
        results = list(self._results.values())
        demand = Demand(tuple(option("ptq_require")), option("ptq_min_cases"))
        if not results and not self._checked and not demand.required and not demand.min_cases:
            return
        try:
            judge = _judge(self._config)
            known = {*judge.pipelines, *backends()}
            self._complaints = complaints(results, self._checked, known, demand)
            if results:
                self._complaints += judge.bars.check([case.id for case in judge.cases()])
        except (PtqError, pytest.UsageError) as error:
            self._complaints.append(str(error))
        if path := option("ptq_json"):
            content = json_report.report([each.as_json() for each in results], environment())
            json_report.write(self._config.invocation_params.dir / path, content)
        if self._complaints and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        writer = terminalreporter._tw
        if self._results:
            terminalreporter.section("ptq")
            text = table(list(self._results.values()), max(150, writer.fullwidth), bool(writer.hasmarkup))
            terminalreporter.write(text)
        for line in self._complaints:
            terminalreporter.write_line(f"ptq: {line}", red=True)


def _judge(config: pytest.Config) -> Judge:
    if _JUDGE not in config.stash:
        try:
            config.stash[_JUDGE] = _make_judge(config)
        except PtqError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[_JUDGE]


def _make_judge(config: pytest.Config) -> Judge:
    data = _data(config)
    declared = config.hook.pytest_ptq_workloads(config=config, data=data)
    workloads = [each for some in declared for each in some]
    scratch = getattr(config, "workerinput", {}).get("ptq_store") or config.stash.get(_SCRATCH, None)
    return Judge(workloads, load_bars(_bars(config)), Store(Path(scratch) if scratch else None), config.stash[_NOTIFY])


def _data(config: pytest.Config) -> Path | None:
    given = config.getoption("ptq_data") or os.environ.get("PTQ_DATA")
    if not given:
        return None
    folder: Path = config.invocation_params.dir / given
    if not folder.is_dir():
        raise PtqError(f"--ptq-data {given}: no such folder; name the one that holds the data sets")
    return folder.resolve()


def _bars(config: pytest.Config) -> Path:
    if given := config.getoption("ptq_bars"):
        return Path(config.invocation_params.dir / given)
    usual = [config.rootpath / "tests" / "bars.toml", config.rootpath / "bars.toml"]
    for path in usual:
        if path.is_file():
            return path
    raise PtqError(f"no bars: {usual[0]} and {usual[1].name} are not there; write one, or name it with --ptq-bars")


def _fail(reason: str) -> NoReturn:
    pytest.fail(reason, pytrace=False)
