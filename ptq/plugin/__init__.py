"""The pytest plugin: options, the parametrized `case`, the `judge` fixture, and the report. Logic lives elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ptq.cases import Case
from ptq.checks.preprocessing import checks
from ptq.engine.durations import Durations
from ptq.engine.store import default_root
from ptq.latency.race import BATCHES
from ptq.plugin import hooks
from ptq.plugin.case_judge import CaseJudge
from ptq.plugin.judging import NOTIFY, SCRATCH, judge_of
from ptq.plugin.options import MARKERS, add_options
from ptq.plugin.progress import can_update, progress_of
from ptq.plugin.run import MADE, Run
from ptq.plugin.watched import Watched

__all__ = ["CaseJudge"]


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hooks)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    worker = hasattr(config, "workerinput")
    memory = None if worker or config.getoption("ptq_no_cache") else Durations(default_root())
    progress = progress_of(config, {} if memory is None else memory.load())
    config.stash[NOTIFY] = progress.doing
    if python := config.getoption("ptq_modelopt_python"):
        patch = pytest.MonkeyPatch()
        patch.setenv("PTQ_MODELOPT_PYTHON", str(config.invocation_params.dir / python))
        config.add_cleanup(patch.undo)
    if worker:
        return
    given = any(str(word).startswith("--ptq-update") for word in config.invocation_params.args)
    if config.getoption("ptq_update") and os.environ.get("CI") and not given:
        raise pytest.UsageError(
            "--ptq-update comes from PYTEST_ADDOPTS or a configuration file, under CI: it would judge nothing; give it "
            "on the command line, where a reader sees it"
        )
    if config.getoption("ptq_no_cache"):
        config.stash[SCRATCH] = Path(tempfile.mkdtemp(prefix="ptq-"))
    config.pluginmanager.register(Run(config), "ptq-run")
    config.pluginmanager.register(Watched(progress, memory), "ptq-progress")


def pytest_unconfigure(config: pytest.Config) -> None:
    if (scratch := config.stash.get(SCRATCH, None)) is not None:
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where the controller's throw-away store is, which they share, and who shows progress."""
    node.workerinput["ptq_updating"] = can_update(node.config)
    if (scratch := node.config.stash.get(SCRATCH, None)) is not None:
        node.workerinput["ptq_store"] = str(scratch)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = set(metafunc.fixturenames)
    if "judge" not in wanted or not wanted & {"case", "workload"}:
        return
    judge = judge_of(metafunc.config)
    if {"case", "batch"} <= wanted:
        pairs = [(case, batch) for case in judge.graphs() for batch in BATCHES]
        metafunc.parametrize("case,batch", [_param(f"{case.id}-batch{batch}", case, batch) for case, batch in pairs])
    elif "case" in wanted:
        metafunc.parametrize("case", [_param(case.id, case) for case in judge.cases()])
    elif {"workload", "check"} <= wanted:
        params = [
            pytest.param(name, check, id=f"{name}-{check.name}", marks=pytest.mark.ptq(workload=name))
            for name in judge.pipelines
            for check in checks()
        ]
        metafunc.parametrize("workload,check", params)


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Iterator[CaseJudge]:
    """Judges what a test is parametrized with: ``judge(case)``, ``judge.structure(case)``,
    ``judge.latency(case, batch, benchmark)``, ``judge.check(workload, check)``.

    A test that asks for `judge` and for `case`, for `case` and `batch`, or for `workload` and `check` runs once for
    each of them.
    """
    judge = CaseJudge(request)
    before = judge.counts
    yield judge
    delta = [[*what, number] for what, number in (judge.counts - before).items()]
    request.node.user_properties.append((MADE, json.dumps(delta)))
    if not judge.asked:
        pytest.fail(f"{request.node.name}: takes judge and never asks it, so it proves nothing", pytrace=False)


def _param(name: str, case: Case, *more: Any) -> Any:
    return pytest.param(case, *more, id=name, marks=pytest.mark.ptq(**case.fields()))
