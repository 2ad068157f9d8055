"""Cluster: Dask makes what the tests will ask for; then they find it, and judge as always."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from ptq.data.blocks import BLOCK
from ptq.engine.predictions import EVALUATED, block_count
from ptq.engine.progress import Notify
from ptq.errors import NotInstalled, PtqError, one_line
from ptq.gate.graph import Task, tasks
from ptq.gate.judge import Judge
from ptq.plugin.fetching import Fetching
from ptq.plugin.judging import NOTIFY, SCRATCH, judge_of
from ptq.plugin.worker import Job, Told, differs, identity, work

ATTEMPTS = 3
WAIT = 60.0
"""Seconds in which a scheduler and a worker have to be there."""
_LOCAL = re.compile(r"local(?::([1-9][0-9]{0,2}))?")
_OWN = ("--ptq-dask", "--ptq-json", "--ptq-html", "--ptq-artifacts")


class Cluster(Fetching):
    """What is not there, is made by the workers of a scheduler."""

    def __init__(self, config: pytest.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if self._config.option.collectonly or session.testsfailed:
            return
        judge, job = judge_of(self._config), self._job()
        cases = self.missing(session)
        if not cases:
            self.lines.append("dask: all that tests will ask for is in the store: no worker was asked")
            return
        workloads = {name: pipeline.workload for name, pipeline in judge.pipelines.items()}
        todo = tasks(cases, workloads, judge.registry, _blocks(judge, {case.workload for case in cases}))
        start = time.perf_counter()
        with _address(self._address) as address:
            done = distribute(address, todo, job, self._config.stash[NOTIFY])
        took = time.perf_counter() - start
        self.lines += done.faults
        self.lines.append(f"dask: {done.finished} of {len(todo)} tasks made by {done.workers} workers in {took:.1f} s")

    def _job(self) -> Job:
        option, store = self._config.getoption, judge_of(self._config).store
        given = [str(word) for word in self._config.invocation_params.args]
        url = option("ptq_store") or os.environ.get("PTQ_STORE")
        scratch = self._config.stash.get(SCRATCH, None)
        local = _LOCAL.fullmatch(self._address) is not None
        if store.remote is None and not local:
            raise pytest.UsageError(
                f"--ptq-dask {self._address}: workers need a store they share with this process: give --ptq-store URL"
            )
        cache = str(scratch or store.root) if local else None
        arguments = (*_without(given, _OWN), *((f"--ptq-store={url}",) if url and not scratch else ()))
        folder = str(self._config.invocation_params.dir)
        return Job(folder, arguments, cache, tuple(sorted(identity().items())))


class Done:
    """How far tasks came: how many `finished`, on how many `workers`, and `faults`, a line each."""

    def __init__(self) -> None:
        self.finished, self.workers = 0, 0
        self.faults: list[str] = []


def distribute(address: str, todo: Sequence[Task], job: Any, notify: Notify, work: Callable[..., Told] = work) -> Done:
    """Have the workers of a scheduler make tasks; what they could not is left to this process, and said in one line.

    A worker that dies is replaced by Dask. When the scheduler dies, all that is not done is asked for anew where one
    comes back: what was done is in the store.
    """
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    done, left = Done(), list(todo)
    why = ""
    for _ in range(ATTEMPTS):
        try:
            with Client(address, timeout=WAIT, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=WAIT)
                left = _submitted(client, left, job, notify, work, done)
        except Exception as error:  # of the connection, or of Dask itself
            why = f"{type(error).__name__}: {one_line(error, 120)}"
        if not left:
            break
    done.finished = len(todo) - len(left)
    if left:
        done.faults.append(f"dask: {len(left)} tasks were not made by workers ({why or 'they died'}): made here")
    return done


def _submitted(
    client: Any, todo: Sequence[Task], job: Any, notify: Notify, work: Callable[..., Told], done: Done
) -> list[Task]:
    """Submit tasks and wait; those that were not finished."""
    from distributed import as_completed

    fit = _fitting(client, done)
    if not fit:
        return list(todo)
    token = uuid.uuid4().hex[:8]
    futures: dict[str, Any] = {}
    names = {task.name for task in todo}
    for place, task in enumerate(todo):
        futures[task.name] = client.submit(
            work, job, task.case, [futures[name] for name in task.needs if name in names], task.part,
            key=f"ptq-{token}-{task.name}", pure=False, retries=3, priority=-place,
            workers=None if fit is True else fit,
        )  # fmt: skip
    said = time.monotonic()
    finished: set[str] = set()
    by_key = {future.key: name for name, future in futures.items()}
    completed = as_completed(list(futures.values()), loop=client.loop, with_results=True, raise_errors=False)
    for future, told in completed:
        if not isinstance(told, Told):  # it was killed with its worker, or lost with the scheduler
            continue
        lines = [f"dask: a worker {told.fault}: it made nothing"] if told.fault else [f"dask: {x}" for x in told.lines]
        done.faults += [line for line in lines if line not in done.faults]
        if told.fault:
            continue
        finished.add(by_key[future.key])
        if time.monotonic() - said > 10:
            said = time.monotonic()
            notify(f"dask: {len(finished)} of {len(todo)} tasks, see {client.dashboard_link}")
    return [task for task in todo if task.name not in finished]


def _fitting(client: Any, done: Done) -> bool | list[str]:
    """The workers that would give this process's results: True for all; the others are told, a line each."""
    here, there = identity(), client.run(identity, on_error="return")
    fit = []
    for worker, found in there.items():
        if not isinstance(found, dict):
            continue
        if words := differs(found, here):
            line = f"dask: worker {worker} would give other results ({words}): it is given nothing"
            done.faults += [line] * (line not in done.faults)
        else:
            fit.append(worker)
    done.workers = max(done.workers, len(fit))
    return True if len(fit) == len(there) and fit else fit


@contextmanager
def _address(given: str) -> Iterator[str]:
    """The scheduler's address; of ``local`` or ``local:N`` one that lives as long as the block."""
    import distributed

    local = _LOCAL.fullmatch(given)
    if local is None:
        yield given
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with distributed.LocalCluster(
        n_workers=int(local[1] or cores), threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


def _blocks(judge: Judge, workloads: Collection[str]) -> dict[str, tuple[int, int]]:
    """How many blocks the calibration and the evaluation samples of workloads have."""
    found = {}
    for name in workloads:
        with suppress(Exception):  # said where the case is judged
            pipeline = judge.pipelines[name]
            seen, asked = (pipeline.facts(which).n for which in ("calibration", "evaluation"))
            # a model that has to be converted first, is so here: everything of it waits for that
            evaluated = block_count(asked, pipeline.signature, pipeline.batch) if asked > EVALUATED else 1
            found[name] = -(-seen // BLOCK), evaluated
    return found


def check_cluster(address: str) -> None:
    """Raise `NotInstalled` without Dask, `PtqError` for what is no address."""
    if importlib.util.find_spec("distributed") is None:  # importing it takes a second: not before there is work
        raise NotInstalled("--ptq-dask: dask is not installed: pip install 'ptq[cluster]'")
    if not _LOCAL.fullmatch(address) and not re.fullmatch(r"[a-z]+://[^\s/]+", address):
        raise PtqError(f"--ptq-dask {address}: should be tcp://HOST:PORT of a scheduler, or local, or local:WORKERS")


def _without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Arguments without options that are the controlling process's own, each followed by its value."""
    kept, skip = [], False
    for word in arguments:
        if skip:
            skip = False
        elif word in names:
            skip = True
        elif not word.startswith(tuple(f"{name}=" for name in names)):
            kept.append(word)
    return kept
