"""This repository uses ptq as any other would: it declares its workloads and leaves the rest to the plugin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import ptq

pytest_plugins = ["pytester"]

SUITES = {"accuracy", "preprocessing", "structure", "latency", "speed", "or"}


def pytest_ptq_workloads(config: pytest.Config, data: Path | None) -> Sequence[ptq.Workload]:
    """Of this repository alone: the shipped suite lies in it, and may be run from elsewhere."""
    return ptq.builtin_workloads(data) if config.rootpath == Path(__file__).parent else []


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``-m accuracy`` and its like judge models: those of ptq and its backends are not even imported."""
    words = set(re.findall(r"\w+", config.option.markexpr))
    return True if collection_path.name in ("meta", "conformance") and words and words <= SUITES else None
