"""The hooks a repository implements in its conftest.py, or a plugin of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptq.backends.protocol import Backend
from ptq.engine.workload import Workload
from ptq.quantization.method import Method


def pytest_ptq_workloads(config: Any, data: Path | None) -> Sequence[Workload]:  # type: ignore[empty-body]
    """Return the workloads to judge.

    `data` is the folder given by ``--ptq-data`` or ``PTQ_DATA``, None when there is none. Called once a process, when
    tests are collected: declare, do not read; a `Workload` takes functions for what is costly. Where nobody returns
    one, the workloads that installed packages bring are judged; ``ptq.builtin_workloads(data)`` has ptq's own, too.
    """


def pytest_ptq_backends(config: Any) -> Sequence[Backend]:  # type: ignore[empty-body]
    """Return backends beside those of ptq and of installed packages, see `ptq.backends.protocol`."""


def pytest_ptq_methods(config: Any) -> Sequence[Method]:  # type: ignore[empty-body]
    """Return methods beside those of ptq and of installed packages."""
