"""Watched: what tells the progress of a run that a test ended, and takes its line back before pytest writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ptq.engine.durations import Durations
from ptq.plugin.progress import Progress


class Watched:
    """Follows a run, in this process or in xdist's workers; `memory` keeps how long its tests took."""

    def __init__(self, progress: Progress, memory: Durations | None) -> None:
        self._progress = progress
        self._memory = memory

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._progress.expect([item.nodeid for item in session.items if item.get_closest_marker("ptq")])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        self._progress.expect(ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self._progress.clear()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._progress.clear()
        self._progress.took(report.nodeid, report.duration)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._progress.done(nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._progress.clear()
        if self._memory is not None:
            self._memory.add(self._progress.seconds)
