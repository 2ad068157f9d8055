"""The judge of a run: made once a process, from what conftest.py declares and the options say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ptq.engine.progress import Notify, silent
from ptq.engine.registry import Registry, declared_outside
from ptq.engine.remote import given_remote
from ptq.engine.store import Store
from ptq.errors import PtqError
from ptq.files import cache_folder
from ptq.gate.bars import load_bars
from ptq.gate.judge import Judge
from ptq.gate.reference import References, load_references
from ptq.plugin.options import bars_file, data_folder

REGISTRY = pytest.StashKey[Registry]()
JUDGE = pytest.StashKey[Judge]()
FAULT = pytest.StashKey[str]()
"""Why there is no judge, told once."""
SCRATCH = pytest.StashKey[Path]()
NOTIFY = pytest.StashKey[Notify]()


def judge_of(config: pytest.Config) -> Judge:
    """The judge; what a user can mend is an error of collection, on one line, and once: the first ends the run."""
    if FAULT in config.stash:
        raise pytest.skip.Exception(config.stash[FAULT], allow_module_level=True)
    if JUDGE not in config.stash:
        try:
            config.stash[JUDGE] = _make(config)
        except PtqError as error:
            config.stash[FAULT] = str(error)
            raise pytest.Collector.CollectError(str(error)) from error
    return config.stash[JUDGE]


def registry_of(config: pytest.Config) -> Registry:
    """What there is in this run: ptq's own, that of installed packages, and what hooks bring."""
    if REGISTRY not in config.stash:
        backends = _flat(config.hook.pytest_ptq_backends(config=config))
        methods = _flat(config.hook.pytest_ptq_methods(config=config))
        config.stash[REGISTRY] = Registry(tuple(backends), tuple(methods))
    return config.stash[REGISTRY]


def _make(config: pytest.Config) -> Judge:
    data = data_folder(config)
    registry = registry_of(config)
    workloads = _flat(config.hook.pytest_ptq_workloads(config=config, data=data)) or declared_outside(data)
    scratch = getattr(config, "workerinput", {}).get("ptq_store") or config.stash.get(SCRATCH, None)
    bars = load_bars(bars_file(config))
    path = bars.path.with_name("reference.json")
    references = References(path) if config.getoption("ptq_update") else load_references(path)
    # what fails of a remote is told once, by the controlling process
    remote = given_remote(silent, config.getoption("ptq_store"), config.getoption("ptq_store_read_only"))
    store = Store(Path(scratch) if scratch else cache_folder(), config.stash[NOTIFY], None if scratch else remote)
    return Judge(workloads, bars, references, store, registry)


def _flat(answers: Iterable[Any]) -> list[Any]:
    """What every implementation of a hook returned, as one list."""
    return [item for some in answers for item in (some if isinstance(some, Iterable) else [some])]
