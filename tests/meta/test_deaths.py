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

import numpy as np
import pytest
from foreign import CONFTEST, images, write_repository
from test_runs import NO_TORCH

import ptq

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")]


SLOW = """
import time

class Slow(ptq.ArraySamples):
    def batches(self, size):
        for batch in super().batches(size):
            time.sleep(0.01)
            yield batch
"""
"""Samples that take long enough to be killed in the middle of."""


class Processes:
    """A scheduler, workers and perhaps a bucket, each a process group of its own; all share a folder, or the bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.all = folder, dict[str, subprocess.Popen[bytes]]()
        self.port, self.bucket = _free(), _free()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.store = str(folder / "shared")

    def start(self, name: str, *words: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(Path(ptq.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        told = {**os.environ, "PYTHONPATH": path, "PTQ_CACHE": str(self.folder / f"cache-{name}")}
        told |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.bucket}", "AWS_DEFAULT_REGION": "us-east-1"}
        told |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
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

    def s3(self) -> None:
        """A bucket to share instead of the folder."""
        import s3fs

        self.start("s3", "moto.server", "-H", "127.0.0.1", "-p", str(self.bucket))
        while not _answers(self.bucket):
            assert self.all["s3"].poll() is None
            time.sleep(0.1)
        self.system = s3fs.S3FileSystem(
            key="a", secret="b", endpoint_url=f"http://127.0.0.1:{self.bucket}", skip_instance_cache=True,
            use_listings_cache=False,
        )  # fmt: skip
        self.system.mkdir("bucket")
        self.store = "s3://bucket/ptq"

    def run(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        words = ("-q", "-m", "accuracy", "-p", "no:cacheprovider", f"--ptq-json={self.folder / name}.json")
        return self.start(name, "pytest", *words, *more, cwd=self.folder / "mine")

    def dask(self) -> subprocess.Popen[bytes]:
        return self.run("dask", f"--ptq-dask={self.address}", f"--ptq-store={self.store}")

    def shared(self, kind: str, least: int, within: subprocess.Popen[bytes]) -> None:
        """Wait until so many entries of a kind are shared; the run must not have ended by then."""
        while sum(f'"kind": "{kind}"' in entry for entry in self._entries()) < least:
            assert within.poll() is None
            time.sleep(0.02)

    def _entries(self) -> list[str]:
        if "://" in self.store:
            names = self.system.glob("bucket/ptq/ac/*")
            return [content.decode() for content in self.system.cat(names).values()] if names else []
        return [path.read_text() for path in Path(self.store, "ac").glob("*")]


def _answers(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def _free() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    pytest.importorskip("distributed", reason="dask is not installed")
    (tmp_path / "mine").mkdir()
    write_repository(tmp_path / "mine")
    pictures, labels = images(5500)
    np.save(tmp_path / "mine" / "images.npy", pictures)
    np.save(tmp_path / "mine" / "labels.npy", labels)
    slow = CONFTEST.replace("ptq.ArraySamples", "Slow").replace("90", "1000")
    (tmp_path / "mine" / "conftest.py").write_text(NO_TORCH + slow + SLOW)
    made = Processes(tmp_path)
    yield made
    for name in list(made.all):
        made.kill(name)


def results(path: Path) -> Any:
    return [{**row, "seconds": None} for row in json.loads(path.read_text())["results"]]


@pytest.mark.parametrize("death", ["worker", "scheduler", "s3"])
def test_a_death_changes_nothing(processes: Processes, tmp_path: Path, death: str) -> None:
    assert processes.run("alone").wait(300) == 0
    if death == "s3":
        pytest.importorskip("s3fs", reason="s3fs is not installed")
        pytest.importorskip("moto.server", reason="moto is not installed")
        processes.s3()
    processes.scheduler()
    for name in ("one", "two", "three"):
        processes.worker(name)
    running = processes.dask()
    processes.shared("statistics", 1, running)  # in the middle of calibration: a block of three is there
    if death == "worker":
        processes.kill("one")
        processes.shared("predictions", 5, running)  # and of evaluation: each case has three blocks
        processes.kill("two")
    elif death == "scheduler":
        for name in ("scheduler", "one", "two", "three"):
            processes.kill(name)
        processes.scheduler()
        processes.worker("four")
    else:
        os.killpg(processes.all["s3"].pid, signal.SIGSTOP)
        time.sleep(10)
        os.killpg(processes.all["s3"].pid, signal.SIGCONT)
    assert running.wait(300) == 0
    assert results(tmp_path / "alone.json") == results(tmp_path / "dask.json")
    log = (tmp_path / "dask.log").read_text()
    assert "ptq: dask: " in log
