"""The workloads ptq brings. One file a workload, found by its name: ``WORKLOAD(data) -> Workload``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from ptq.registry import modules
from ptq.workload import Workload

Declare = Callable[[Path | None], Workload]
"""Declares a workload for the folder of data, None when there is none. Reads nothing."""


def builtin_workloads(data: Path | None) -> list[Workload]:
    """Every workload ptq brings, by name; those whose data is not in `data` are reported as not run."""
    found = cast("dict[str, Declare]", modules("ptq.workloads", "WORKLOAD"))
    return [declare(data) for declare in found.values()]
