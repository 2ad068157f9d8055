"""This repository uses ptq as any other would: it declares its workloads and leaves the rest to the plugin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import ptq

pytest_plugins = ["pytester"]

SUITES = {"accuracy", "preprocessing", "structure", "latency", "speed", "or"}


def pytest_ptq_workloads(data: Path | None) -> Sequence[ptq.Workload]:
    return ptq.builtin_workloads(data)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``-m accuracy`` and its like judge models: the tests of ptq itself, in tests/meta, are not even imported."""
    words = set(re.findall(r"\w+", config.option.markexpr))
    return True if collection_path.name == "meta" and words and words <= SUITES else None
