"""This repository uses ptq as any other would: it declares its workloads and leaves the rest to the plugin."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import ptq

pytest_plugins = ["pytester"]


def pytest_ptq_workloads(data: Path | None) -> Sequence[ptq.Workload]:
    return ptq.builtin_workloads(data)


def pytest_configure() -> None:
    try:
        from hypothesis import settings
    except ImportError:  # the suite itself does not need it, only the tests of ptq do
        return
    settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
    settings.register_profile("dev", deadline=None)
    settings.load_profile("ci" if os.environ.get("CI") or os.environ.get("TOX_ENV_NAME") else "dev")
