"""Worker: makes the steps of a case in another process, perhaps on another machine, into the store both share."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ptq.cases import Case
from ptq.engine.environment import LIBRARIES, instruction_sets, versions
from ptq.engine.pipeline import Pipeline
from ptq.errors import PtqError, one_line
from ptq.gate.graph import ARTIFACT, EVALUATION, MODEL
from ptq.gate.judge import Judge
from ptq.plugin.judging import NOTIFY, SCRATCH, judge_of
from ptq.quantization.method import EXTREMES, HISTOGRAM

_ONE = threading.Lock()
"""A judge and its frameworks serve one task at a time: give workers one thread each, and more processes."""


@dataclass(frozen=True)
class Job:
    """A run, told so that another process can declare the same: where, by which arguments of pytest, into which store.

    `cache` is the folder of a throw-away store, None: the worker's own. `needs` is what `identity` must be there.
    """

    folder: str
    arguments: tuple[str, ...]
    cache: str | None
    needs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Told:
    """What a worker says of a task: files it asked for; what is amiss with its store; or `fault`, why it would not."""

    made: int = 0
    fault: str = ""
    lines: tuple[str, ...] = ()


def identity() -> dict[str, str]:
    """What decides results beside the repository: versions, instruction sets, and ptq's own sources."""
    return {**versions(LIBRARIES), "CPU": " ".join(instruction_sets()), "ptq's sources": _sources()}


def differs(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """What of two identities differs, in words; empty where nothing does."""
    return ", ".join(
        f"{name} {there.get(name, 'none'):.60}, but here {here.get(name, 'none'):.60}"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    )


def work(job: Job, case: str, after: Sequence[object] = (), part: tuple[str, int, int] | None = None) -> Told:
    """Make all steps of a case, or a part of it, see `ptq.gate.graph.Task`; what cannot be made, the test that asks for
    it will say.

    `after` are what other tasks told: they are done then.
    """
    if fault := differs(identity(), dict(job.needs)):
        return Told(fault=f"would give other results ({fault})")
    with _ONE:
        try:
            judge = _judge(job)
        except Exception as error:
            return Told(fault=f"cannot declare what is in {job.folder} ({type(error).__name__}: {one_line(error)})")
        try:
            (found,) = (each for each in judge.cases() if each.id == case)
            before = sum(judge.store.counts.values())
            if part is None:
                judge.result(found)
            else:
                _make(judge.pipelines[found.workload], found, *part)
            remote = judge.store.remote
            lines = () if remote is None else tuple(remote.faults.values())
            return Told(sum(judge.store.counts.values()) - before, lines=lines)
        except Exception:  # of this case alone: it is told where the test asks for it
            return Told()


def _make(pipeline: Pipeline, case: Case, what: str, number: int, depth: int) -> None:
    if what == ARTIFACT:
        pipeline.artifact(case)
    elif what == EVALUATION:
        pipeline.evaluate_block(case, number)
    elif what == MODEL:
        _ = pipeline.passes_of(case, depth).prepared
    elif what == EXTREMES and not pipeline.has_lighter_pass:
        pipeline.passes_of(case, depth).make_block(HISTOGRAM, number)
    else:
        pipeline.passes_of(case, depth).make_block(what, number)


class _Grab:
    """Takes the judge of a run before anything is collected."""

    def __init__(self, cache: str | None) -> None:
        self._cache = cache
        self.judge: Judge | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        config.stash[NOTIFY] = _silent
        if self._cache is not None:
            config.stash[SCRATCH] = Path(self._cache)
        self.judge = judge_of(config)
        return 0


@functools.lru_cache(maxsize=1)
def _judge(job: Job) -> Judge:
    """The judge that a run of pytest in the job's folder has."""
    os.chdir(job.folder)  # a repository names its files from there
    grab = _Grab(job.cache)
    pytest.main([*job.arguments, "-s", "-q", "--assert=plain", "-p", "no:cacheprovider"], plugins=[grab])
    if grab.judge is None:
        raise PtqError("pytest does not start there")
    return grab.judge


@functools.cache
def _sources() -> str:
    package = Path(__file__).parents[1]
    whole = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        whole.update(
            f"{path.relative_to(package).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return whole.hexdigest()[:12]


def _silent(line: str) -> None:
    """Nobody watches a worker."""
