"""A run that is killed, at whatever moment, leaves a cache from which the next gives the same results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import CONFTEST, write_repository

import ptq

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
DIGITS = """
import ptq

def pytest_ptq_workloads():
    chosen = [each for each in ptq.builtin_workloads(None) if each.name == "digits"]
    for each in chosen:
        object.__setattr__(each, "include", lambda case: case.id in IDS)
    return chosen

IDS = {f"digits-onnxruntime-{each}" for each in ("fp32", "int8-minmax", "uint8-entropy", "u8s8-percentile-channel")}
"""
NO_TORCH = """
# onnxruntime's tools import torch where they find it, which takes seconds, and nothing here needs it
import importlib.util

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: None if name == "torch" else find_spec(name, *package)
"""
FEW = CONFTEST.replace('("none", "minmax")', '("none", "minmax", "entropy")')


class Repository:
    """A folder that pytest is run in, each time in a process group of its own."""

    def __init__(self, folder: Path, conftest: str, name: str) -> None:
        folder.mkdir()
        write_repository(folder)
        (folder / "conftest.py").write_text(NO_TORCH + conftest)
        (folder / "bars.toml").write_text(f'["{name}-*"]\nfloor = 0.5\nwhy = "a test of killing"\n')
        self.folder = folder

    def start(self, cache: Path, *arguments: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(Path(ptq.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PTQ_CACHE": str(cache), "PYTHONPATH": path}
        for name in ("PTQ_DATA", "GITHUB_STEP_SUMMARY", "PYTEST_ADDOPTS"):
            environment.pop(name, None)
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-m", "accuracy", "-p", "no:cacheprovider", *arguments],
            cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def results(self, cache: Path, *arguments: str) -> list[dict[str, Any]]:
        """What a whole run gives, times left out."""
        report = self.folder / "out.json"
        report.unlink(missing_ok=True)
        with self.start(cache, "--ptq-json", str(report), *arguments) as whole:
            said, _ = whole.communicate(timeout=600)
        assert whole.returncode == 0, said.decode()
        rows: list[dict[str, Any]] = json.loads(report.read_text())["results"]
        for each in rows:
            del each["seconds"]
        return rows


def kill(running: subprocess.Popen[bytes], after: float) -> bool:
    """SIGKILL the whole group of a run, workers and all, after so many seconds; whether it was still running."""
    with running:
        time.sleep(after)
        alive = running.poll() is None
        if alive:
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    return alive


def killed_at(moments: int, repository: Repository, folder: Path, *arguments: str) -> None:
    start = time.perf_counter()
    clean = repository.results(folder / "clean", *arguments)
    whole = time.perf_counter() - start
    random, killed = np.random.default_rng(20), 0
    for each in range(moments):
        # one cache for every other kill: half of the runs start from what a killed one left
        cache = folder / f"cache{each // 2}"
        killed += kill(repository.start(cache, *arguments), float(random.uniform(0.15, 0.95) * whole))
        if each % 2 or each == moments - 1:
            assert repository.results(cache, *arguments) == clean
            assert not list(cache.rglob(".making-*"))
    assert killed >= moments * 2 // 3


def test_three_kills_change_nothing(tmp_path: Path) -> None:
    killed_at(3, Repository(tmp_path / "mine", FEW, "mine"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_twenty_kills_change_nothing(tmp_path: Path, workers: tuple[str, ...]) -> None:
    if workers:
        pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    killed_at(20, Repository(tmp_path / "digits", DIGITS, "digits"), tmp_path, *workers)
