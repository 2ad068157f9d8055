"""The pytest plugin: options, the parametrized `case`, the `judge` fixture, and the report. Logic lives elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ptq.cases import Case
from ptq.checks.preprocessing import checks
from ptq.engine.durations import Durations
from ptq.errors import PtqError
from ptq.files import cache_folder, scratch
from ptq.gate.shard import Shard
from ptq.latency.race import BATCHES
from ptq.plugin import hooks
from ptq.plugin.case_judge import NO_LATENCY, CaseJudge
from ptq.plugin.cluster import Cluster, check_cluster
from ptq.plugin.fetching import Fetching
from ptq.plugin.judging import NOTIFY, SCRATCH, judge_of
from ptq.plugin.options import MARKERS, add_options, selected
from ptq.plugin.progress import can_update, progress_of
from ptq.plugin.run import FAULTS, MADE, Run
from ptq.plugin.sharding import Sharding, attend
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
    memory = None if worker or config.getoption("ptq_no_cache") else Durations(cache_folder())
    progress = progress_of(config, {} if memory is None else memory.load())
    config.stash[NOTIFY] = progress.doing
    if python := config.getoption("ptq_modelopt_python"):
        patch = pytest.MonkeyPatch()
        patch.setenv("PTQ_MODELOPT_PYTHON", str(config.invocation_params.dir / python))
        config.add_cleanup(patch.undo)
    if words := config.getoption("ptq_shard"):
        config.pluginmanager.register(_sharding(config, words), "ptq-sharding")
    if worker:
        return
    if address := config.getoption("ptq_dask"):
        config.pluginmanager.register(_cluster(config, address), "ptq-fetching")
    elif (config.getoption("ptq_store") or os.environ.get("PTQ_STORE")) and not config.getoption("numprocesses", None):
        config.pluginmanager.register(Fetching(config), "ptq-fetching")  # several processes fetch side by side anyway
    given = any(str(word).startswith("--ptq-update") for word in config.invocation_params.args)
    if config.getoption("ptq_update") and os.environ.get("CI") and not given:
        raise pytest.UsageError(
            "--ptq-update comes from PYTEST_ADDOPTS or a configuration file, under CI: it would judge nothing; give it "
            "on the command line, where a reader sees it"
        )
    if config.getoption("ptq_no_cache"):
        until = ExitStack()
        config.add_cleanup(until.close)
        config.stash[SCRATCH] = until.enter_context(scratch())
    config.pluginmanager.register(Run(config), "ptq-run")
    config.pluginmanager.register(Watched(progress, memory), "ptq-progress")


def _cluster(config: pytest.Config, address: str) -> Cluster:
    """The distributed part of the run; `pytest.UsageError` for options that cannot go with it."""
    try:
        check_cluster(address)
    except PtqError as error:
        raise pytest.UsageError(str(error)) from error
    if selected(config, "latency"):
        raise pytest.UsageError(f"--ptq-dask {address}: {NO_LATENCY}")
    if getattr(config.option, "numprocesses", None):
        raise pytest.UsageError(
            f"--ptq-dask {address}: with -n, but Dask's workers make all there is to make: use -n 0"
        )
    return Cluster(config, address)


def _sharding(config: pytest.Config, words: str) -> Sharding:
    """This shard's part; `pytest.UsageError` for options that cannot go with it."""
    try:
        shard = Shard.parse(words)
    except PtqError as error:
        raise pytest.UsageError(str(error)) from error
    if not config.getoption("ptq_json"):
        raise pytest.UsageError(f"--ptq-shard {words}: needs --ptq-json PATH, which ptq merge reads")
    if config.getoption("ptq_update"):
        raise pytest.UsageError(f"--ptq-shard {words}: a shard sees a part, so it cannot --ptq-update the whole")
    if not hasattr(config, "workerinput"):
        attend(config)
    return Sharding(config, shard)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where the controller's throw-away store is, which they share, and who shows progress."""
    node.workerinput["ptq_updating"] = can_update(node.config)
    if (store := node.config.stash.get(SCRATCH, None)) is not None:
        node.workerinput["ptq_store"] = str(store)


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
    request.node.user_properties += [(MADE, json.dumps(delta)), (FAULTS, json.dumps(judge.faults))]
    if not judge.asked:
        pytest.fail(f"{request.node.name}: takes judge and never asks it, so it proves nothing", pytrace=False)


def _param(name: str, case: Case, *more: Any) -> Any:
    return pytest.param(case, *more, id=name, marks=pytest.mark.ptq(**case.fields()))
