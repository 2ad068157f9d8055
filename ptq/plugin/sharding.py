"""Sharding: takes this shard's part of the selected tests, and says what it took."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from ptq.cases import Case
from ptq.engine.environment import commit
from ptq.engine.timetable import Seconds, agreed
from ptq.files import file_digest
from ptq.gate.judge import Judge
from ptq.gate.shard import Shard, cut, group_of
from ptq.plugin.judging import FAULT, judge_of
from ptq.plugin.options import bars_file

PLAN = "ptq_plan"
"""Key under which xdist's workers are told the plan, and tell what they took."""
_OTHERS = "tests of others"
_NEIGHBOURS = Path(tempfile.gettempdir()) / f"ptq-shards-{os.getuid() if hasattr(os, 'getuid') else 0}"


class Sharding:
    """The part of a run, of the controlling process and of each of xdist's workers.

    `plan` is what the parts are cut by, the same on every machine; `whole` and `own` are ids of tests, once collected.
    """

    def __init__(self, config: pytest.Config, shard: Shard) -> None:
        self._config, self.shard = config, shard
        self.whole: list[str] = []
        self.own: list[str] = []
        told = getattr(config, "workerinput", {}).get(PLAN)
        self._plan: Seconds | None = None if told is None else {name: (a, b) for name, (a, b) in told.items()}

    @property
    def plan(self) -> Seconds:
        """By case id, the seconds that parts are packed by; empty where nothing is shared that could say so."""
        if self._plan is None:
            judge = judge_of(self._config)
            ids = [case.id for case in judge.cases()]
            remote = judge.store.remote
            self._plan = {} if remote is None else agreed(remote, commit(self._config.rootpath), ids, self.shard.of)
        return self._plan

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if FAULT in config.stash:
            return  # told where the tests were collected
        judge = judge_of(config)
        groups: dict[str, list[pytest.Item]] = {}
        for item in items:
            groups.setdefault(_group(item, judge), []).append(item)
        ids = {name: [_case_id(item) for item in some] for name, some in groups.items()}
        parts = cut(ids, self.plan, self.shard.of)
        own = {item for name, some in groups.items() if parts[name] == self.shard.number for item in some}
        self.whole, self.own = ([item.nodeid for item in some] for some in (items, [i for i in items if i in own]))
        gone = [item for item in items if item not in own]
        items[:] = [item for item in items if item in own]
        config.hook.pytest_deselected(items=gone)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[PLAN] = dict(self.plan)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        self.whole, self.own = getattr(node, "workeroutput", {}).get(PLAN, (self.whole, self.own))

    def pytest_sessionfinish(self) -> None:
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput[PLAN] = (self.whole, self.own)

    def told(self, judge: Judge) -> dict[str, Any]:
        """What of `ptq.report.shards.Part` is known before any test ran."""
        option, here = self._config.getoption, self._config.invocation_params.dir
        bars, references = bars_file(self._config), judge.references.path
        options = {
            "require": list(option("ptq_require")),
            "min_cases": option("ptq_min_cases"),
            "strict": option("ptq_strict"),
            "markers": self._config.option.markexpr,
            "against": option("ptq_against"),
            "allow_new": option("ptq_allow_new"),
            "bars": os.path.relpath(bars, here),
            "bars_digest": file_digest(bars),
            "references_digest": file_digest(references) if references.is_file() else None,
        }
        plan = json.dumps(dict(self.plan), sort_keys=True)
        return {
            "number": self.shard.number,
            "of": self.shard.of,
            "plan": hashlib.sha256(plan.encode()).hexdigest()[:12],
            "commit": commit(self._config.rootpath),
            "options": options,
            "whole": sorted(self.whole),
            "own": sorted(self.own),
            "cases": [list(case.fields().values()) for case in judge.cases()],
            "names": sorted({*judge.pipelines, *judge.registry.backends}),
        }


def neighbour() -> str | None:
    """Another shard that runs on this machine now, by its file; None where there is none that can be seen."""
    for path in sorted(_NEIGHBOURS.glob("*.lock")) if _NEIGHBOURS.is_dir() else ():
        if path.stem != str(os.getpid()):
            try:
                with FileLock(path, timeout=0):
                    path.unlink(missing_ok=True)
            except Timeout:
                return path.stem
            except OSError:
                continue
    return None


def attend(config: pytest.Config) -> None:
    """Let others on this machine see that a shard runs here, until `config` is done with."""
    with suppress(OSError):  # then nobody is told
        _NEIGHBOURS.mkdir(mode=0o700, exist_ok=True)
        lock = FileLock(_NEIGHBOURS / f"{os.getpid()}.lock")
        lock.acquire(timeout=0)

        def leave() -> None:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release(force=True)

        config.add_cleanup(leave)


def _group(item: pytest.Item, judge: Judge) -> str:
    params: Mapping[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    case, workload = params.get("case"), params.get("workload")
    if isinstance(case, Case) and case.workload in judge.pipelines:
        return group_of(case, judge.pipelines[case.workload].workload, judge.registry)
    return f"{workload} checks" if isinstance(workload, str) and "check" in params else _OTHERS


def _case_id(item: pytest.Item) -> str:
    params: Mapping[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    case = params.get("case")
    return case.id if isinstance(case, Case) else _OTHERS
