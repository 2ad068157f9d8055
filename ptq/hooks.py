"""The hooks a repository implements in its conftest.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptq.workload import Workload


def pytest_ptq_workloads(config: Any, data: Path | None) -> Sequence[Workload]:  # type: ignore[empty-body]
    """Return the workloads to judge.

    `data` is the folder given by ``--ptq-data`` or ``PTQ_DATA``, None when there is none. Called once a process, when
    tests are collected: declare, do not read; a `Workload` takes functions for what is costly.
    """
