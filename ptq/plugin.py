"""The pytest plugin: options, the parametrized `case`, the `judge` fixture, and the report. Logic lives elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

from ptq import hooks
from ptq.bars import load_bars
from ptq.cases import Case
from ptq.checks import Check, checks, subject
from ptq.environment import environment
from ptq.errors import BadData, NoData, NotInstalled, PtqError, Unsupported
from ptq.judge import Judge
from ptq.pipeline import backends
from ptq.progress import Notify
from ptq.race import BATCHES, Race
from ptq.reference import References, load_references
from ptq.report import html, markdown
from ptq.report import json as json_report
from ptq.report.table import table
from ptq.result import FAIL, NO_DATA, NOT_INSTALLED, UNSUPPORTED, Result
from ptq.store import Store
from ptq.tally import ABSENT, CHECKED, GATE, RESULT, STRUCTURE, TIMING, Demand, Tally
from ptq.verdict import Verdict

_MARKERS = (
    "accuracy: judges the accuracy of a case against its bar",
    "preprocessing: checks what goes into a model",
    "structure: judges what of a case really runs in integer",
    "latency: times a case against the float model, side by side; not run by default",
    "slow: takes minutes; not run by default",
    "speed: benchmark of ptq itself against others; not run by default",
    "ptq(workload, backend, dtype, method, granularity, exclude): what a case is, for -m \"ptq(dtype='int8')\"",
)
_JUDGE = pytest.StashKey[Judge]()
_RUN = pytest.StashKey["Run"]()
_SCRATCH = pytest.StashKey[Path]()
_NOTIFY = pytest.StashKey[Notify]()
T = TypeVar("T")


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
    group.addoption("--ptq-html", metavar="PATH", help="write the results as one self-contained page")
    group.addoption(
        "--ptq-update", action="store_true", help="rewrite reference.json beside the bars, and judge nothing by it"
    )
    group.addoption(
        "--ptq-strict", action="store_true", help="a case without a reference, or the reverse, fails the run"
    )
    group.addoption("--ptq-artifacts", metavar="DIR", help="save every judged artifact there, by case id")
    group.addoption("--ptq-against", metavar="DIR", help="race artifacts against those saved there, not against fp32")
    group.addoption("--ptq-modelopt-python", metavar="PATH", help="an interpreter that has nvidia-modelopt")
    group.addoption("--ptq-no-cache", action="store_true", help="make everything anew, keep nothing")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hooks)


def pytest_configure(config: pytest.Config) -> None:
    for each in _MARKERS:
        config.addinivalue_line("markers", each)
    # a copy of the descriptor, because a test's stderr is captured and its reader waits now
    terminal = os.dup(2)
    config.add_cleanup(lambda: os.close(terminal))
    config.stash[_NOTIFY] = lambda line: _write(terminal, f"\nptq: {line} ...\n")
    if python := config.getoption("ptq_modelopt_python"):
        patch = pytest.MonkeyPatch()
        patch.setenv("PTQ_MODELOPT_PYTHON", str(config.invocation_params.dir / python))
        config.add_cleanup(patch.undo)
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
    if {"case", "batch"} <= wanted:
        pairs = [(case, batch) for case in judge.graphs() for batch in BATCHES]
        metafunc.parametrize("case,batch", [_param(f"{case.id}-batch{batch}", case, batch) for case, batch in pairs])
    elif "case" in wanted:
        metafunc.parametrize("case", [_param(case.id, case) for case in judge.cases()])
    elif {"workload", "check"} <= wanted:
        params = [
            pytest.param(name, each, id=f"{name}-{each.name}", marks=pytest.mark.ptq(workload=name))
            for name in judge.pipelines
            for each in checks()
        ]
        metafunc.parametrize("workload,check", params)


def _param(name: str, case: Case, *more: Any) -> Any:
    return pytest.param(case, *more, id=name, marks=pytest.mark.ptq(**case.fields()))


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> CaseJudge:
    """Judges what a test is parametrized with: ``judge(case)``, ``judge.structure(case)``,
    ``judge.latency(case, batch, benchmark)``, ``judge.check(workload, check)``.

    A test that asks for `judge` and for `case`, for `case` and `batch`, or for `workload` and `check` runs once for
    each of them.
    """
    return CaseJudge(request)


class CaseJudge:
    """The `judge` fixture: measures, records for the report, and passes, fails, xfails or skips the test."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._config = request.config
        self._judge = _judge(request.config)
        self._required = frozenset(request.config.getoption("ptq_require"))
        self._properties = request.node.user_properties

    def __call__(self, case: Case) -> Result:
        """The result of `case`; fails the test in one line when it is under its bar or significantly worse than its
        reference, skips it when it was not run.
        """
        self._properties.append((GATE, case.id))
        with _failing_in_one_line(case.id):
            result = self._judge.result(case)
            if self._config.getoption("ptq_update"):
                result = replace(result, red=False)
            if result.judged and (folder := self._config.getoption("ptq_artifacts")):
                self._judge.save(case, self._config.invocation_params.dir / folder)
        self._properties.append((RESULT, json.dumps(result.as_json(), allow_nan=False)))
        if not result.judged:
            self._not_run(case, result.verdict, result.not_run)
        if result.red:
            _fail(result.failure)
        if result.verdict == FAIL:
            pytest.xfail(result.reason)
        return result

    def structure(self, case: Case) -> None:
        """Judge what of the case really runs in integer against ``min_integer_share``."""
        self._properties.append((GATE, case.id))
        with _failing_in_one_line(case.id):
            found = self._measured(case, lambda: self._judge.structure(case))
        self._properties.append((STRUCTURE, json.dumps(found.as_json())))
        self._end(found.verdict)

    def latency(self, case: Case, batch: int, benchmark: Any) -> None:
        """Race the case in batches of `batch`; `benchmark` is pytest-benchmark's fixture, which stores the times."""
        self._properties.append((GATE, case.id))
        with _failing_in_one_line(case.id):
            race = self._ready(case, batch, benchmark)
            benchmark.extra_info.update(race.facts)
            benchmark.pedantic(race.predict, args=(race.inputs,), rounds=20, iterations=1, warmup_rounds=3)
            timing = race.run()
            measured = timing.as_json()
        benchmark.extra_info.update({name: measured[name] for name in ("against", "ratio", "low", "high", "verdict")})
        self._properties.append((TIMING, json.dumps(measured)))
        self._end(timing.verdict)

    def check(self, workload: str, check: Check) -> None:
        """Run one preprocessing check of a workload; fails the test with the check's own line."""
        self._properties.append((GATE, workload))
        try:
            check.run(subject(self._judge.pipelines[workload]))
        except (NoData, NotInstalled) as absent:
            self._not_run(workload, NO_DATA, str(absent))
        except Unsupported as reason:
            pytest.skip(f"{check.name}: does not apply: {reason}")
        except PtqError as error:
            _fail(f"{workload}: {check.name}: {error}")
        self._properties.append((CHECKED, workload))

    def _ready(self, case: Case, batch: int, benchmark: Any) -> Race:
        base = self._config.getoption("ptq_against")
        folder = self._config.invocation_params.dir / base if base else None
        try:
            if not (disabled := _benchmarks_disabled(self._config)):
                return self._measured(case, lambda: self._judge.race(case, batch, folder))
            if "latency" in self._config.option.markexpr.replace("not latency", ""):
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
        self._properties.append((ABSENT, reason))
        pytest.skip(reason)

    def _end(self, verdict: Verdict) -> None:
        if verdict.red:
            _fail(verdict.reason)
        if verdict.name == FAIL:
            pytest.xfail(verdict.reason)


class Run:
    """What the controlling process gathers from every test, in this process or in xdist's workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tally = Tally()
        self._complaints: list[str] = []
        self._notes: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._tally.add(report.user_properties)
        elif report.when == "setup" and not report.passed and "ptq" in report.keywords:
            self._tally.add([(GATE, report.nodeid)])  # skipped by others, e.g. --benchmark-skip

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        option = self._config.getoption
        demand = Demand(tuple(option("ptq_require")), option("ptq_min_cases"), option("ptq_strict"))
        if not (self._tally or demand) or self._config.option.collectonly:
            return
        try:
            self._finish(_judge(self._config), demand)
        except (PtqError, pytest.Collector.CollectError) as error:
            self._complaints.append(str(error))
        content, here = self._tally.report(), self._config.invocation_params.dir
        if path := option("ptq_json"):
            json_report.write(here / path, content)
        if path := option("ptq_html"):
            html.write(here / path, content)
        if path := os.environ.get("GITHUB_STEP_SUMMARY"):
            markdown.append(Path(path), content)
        if self._complaints and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _finish(self, judge: Judge, demand: Demand) -> None:
        ids = [case.id for case in judge.cases()]
        self._complaints += self._tally.complaints({*judge.pipelines, *backends()}, demand)
        if self._tally.gates:
            self._complaints += judge.bars.check(ids)
        if not self._tally.results:
            return
        if self._config.getoption("ptq_update"):
            path = judge.references.path
            try:
                known = load_references(path)
            except BadData:  # remaking it is the remedy
                known = References(path)
            known.updated(self._tally.judged, environment(), ids).save()
            self._notes.append(f"wrote {path.name} with {len(self._tally.judged)} measured cases; none was failed")
            return
        gaps = judge.references.gaps([each.case.id for each in self._tally.judged], ids)
        (self._complaints if demand.strict else self._notes).extend(gaps)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        writer, tally = terminalreporter._tw, self._tally
        if tally:
            terminalreporter.section("ptq")
        if tally.results:
            text = table(list(tally.results.values()), max(150, writer.fullwidth), bool(writer.hasmarkup))
            terminalreporter.write(text)
        for line in tally.lines():
            terminalreporter.write_line(line)
        for line in self._notes:
            terminalreporter.write_line(f"ptq: {line}")
        for line in self._complaints:
            terminalreporter.write_line(f"ptq: {line}", red=True)


def _judge(config: pytest.Config) -> Judge:
    if _JUDGE not in config.stash:
        try:
            config.stash[_JUDGE] = _make_judge(config)
        except PtqError as error:
            raise pytest.Collector.CollectError(str(error)) from error
    return config.stash[_JUDGE]


def _make_judge(config: pytest.Config) -> Judge:
    data = _data(config)
    declared = config.hook.pytest_ptq_workloads(config=config, data=data)
    workloads = [each for some in declared for each in (some if isinstance(some, Iterable) else [some])]
    scratch = getattr(config, "workerinput", {}).get("ptq_store") or config.stash.get(_SCRATCH, None)
    bars = load_bars(_bars(config))
    path = bars.path.with_name("reference.json")
    references = References(path) if config.getoption("ptq_update") else load_references(path)
    store = Store(Path(scratch) if scratch else None)
    return Judge(workloads, bars, references, store, config.stash[_NOTIFY])


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
    # pytest takes the DIR of `--ptq-data DIR` for a test path when it looks for its root, so that may be elsewhere
    folders = dict.fromkeys((config.rootpath, Path(config.invocation_params.dir)))
    usual = [folder / name for folder in folders for name in ("tests/bars.toml", "bars.toml")]
    for path in usual:
        if path.is_file():
            return path
    raise PtqError(f"no bars: {usual[0]} and {usual[1].name} are not there; write one, or name it with --ptq-bars=FILE")


def _benchmarks_disabled(config: pytest.Config) -> str | None:
    """Why nothing would be timed here; None when it would."""
    if hasattr(config, "workerinput"):
        return "xdist runs tests side by side"
    if config.getoption("benchmark_disable", False) or not config.pluginmanager.hasplugin("benchmark"):
        return "benchmarks are disabled"
    return None


@contextmanager
def _failing_in_one_line(name: str) -> Iterator[None]:
    """Turn what a user can mend into a failure that names the case, without a traceback."""
    try:
        yield
    except PtqError as error:
        _fail(str(error) if str(error).startswith(name) else f"{name}: {error}")


def _write(descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode(errors="replace"))


def _fail(reason: str) -> NoReturn:
    # without a cause: the message says it already, and pytest would print both
    raise pytest.fail.Exception(reason, pytrace=False) from None
