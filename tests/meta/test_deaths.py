"""Whatever dies of a cluster of real processes, the run is as without it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from foreign import CONFTEST, write_repository
from test_runs import NO_TORCH

import ptq

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")]


class Processes:
    """A scheduler and workers, each a process group of its own, all on one shared folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.all = folder, dict[str, subprocess.Popen[bytes]]()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"

    def start(self, name: str, *words: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(Path(ptq.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        told = {**os.environ, "PYTHONPATH": path, "PTQ_CACHE": str(self.folder / f"cache-{name}")}
        for gone in ("PTQ_DATA", "PTQ_STORE", "GITHUB_STEP_SUMMARY", "PYTEST_ADDOPTS"):
            told.pop(gone, None)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.all[name] = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=cwd, env=told, stdout=log, stderr=log, start_new_session=True
            )
        return self.all[name]

    def scheduler(self) -> None:
        where = ("--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        self.start("scheduler", "distributed.cli.dask_scheduler", *where)

    def worker(self, name: str) -> None:
        how = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0")
        local = ("--local-directory", str(self.folder / f"dask-{name}"))
        self.start(name, "distributed.cli.dask_worker", self.address, *how, *local)

    def kill(self, name: str) -> None:
        process = self.all.pop(name)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def run(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        words = ("-q", "-m", "accuracy", "-p", "no:cacheprovider", f"--ptq-json={self.folder / name}.json")
        return self.start(name, "pytest", *words, *more, cwd=self.folder / "mine")

    def shared(self, least: int, within: subprocess.Popen[bytes]) -> None:
        """Wait until so many entries are shared."""
        while within.poll() is None and len(list((self.folder / "shared" / "ac").glob("*"))) < least:
            time.sleep(0.02)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    pytest.importorskip("distributed", reason="dask is not installed")
    (tmp_path / "mine").mkdir()
    write_repository(tmp_path / "mine")
    (tmp_path / "mine" / "conftest.py").write_text(NO_TORCH + CONFTEST)
    made = Processes(tmp_path)
    yield made
    for name in list(made.all):
        made.kill(name)


def results(path: Path) -> Any:
    return [{**row, "seconds": None} for row in json.loads(path.read_text())["results"]]


@pytest.mark.parametrize("death", ["worker", "scheduler"])
def test_a_death_changes_nothing(processes: Processes, tmp_path: Path, death: str) -> None:
    assert processes.run("alone").wait(300) == 0
    processes.scheduler()
    processes.worker("one")
    processes.worker("two")
    running = processes.run("dask", f"--ptq-dask={processes.address}", f"--ptq-store={tmp_path / 'shared'}")
    processes.shared(4, running)
    if death == "worker":
        processes.kill("one")
    else:
        processes.kill("scheduler")
        processes.kill("one")
        processes.kill("two")
        processes.scheduler()
        processes.worker("three")
    assert running.wait(300) == 0
    assert results(tmp_path / "alone.json") == results(tmp_path / "dask.json")
    assert "ptq: dask: " in (tmp_path / "dask.log").read_text()
