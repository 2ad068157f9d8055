"""What a run leaves depends on its inputs alone: not on runs killed before it, on order, workers, hash seed or threads.

All that a run leaves is compared, to the byte: the store, reports and artifacts; of times, that they are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from foreign import CONFTEST, STRUCTURE, SUITE, write_repository
from test_store import bytes_of

import ptq
from ptq.engine.store import Store

NO_TORCH = """
# onnxruntime's tools import torch where they find it, which takes seconds, and nothing here needs it
import importlib.util

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: None if name == "torch" else find_spec(name, *package)
"""
SHUFFLE = """
import os
import random

def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.nodeid)
    random.Random(os.environ.get("ORDER")).shuffle(items)
"""
FEW = CONFTEST.replace('("none", "minmax")', '("none", "minmax", "entropy")')
DIGITS = """
import ptq

def pytest_ptq_workloads():
    chosen = [each for each in ptq.builtin_workloads(None) if each.name == "digits"]
    for each in chosen:
        object.__setattr__(each, "include", lambda case: case.id.removeprefix("digits-") in CASES)
    return chosen

CASES = """
SCRATCH = f"ptq-scratch-{os.getuid() if hasattr(os, 'getuid') else 0}"
ONNXRUNTIME = tuple(
    f"onnxruntime-{each}" for each in ("fp32", "int8-minmax", "uint8-entropy", "u8s8-percentile-channel")
)
OTHERS = (
    "torch-u8s8-histogram",
    "torch_pt2e-u8s8-default",
    "tflite-int8-minmax-channel",
    "openvino-u8s8-mixed-channel",
)


class Repository:
    """A folder that commands run in, each in a process group of its own; what they make goes to a folder they are told.

    `quantize` are the words of `ptq quantize`, none where it is not run.
    """

    def __init__(self, folder: Path, conftest: str, name: str, *quantize: str) -> None:
        folder.mkdir(parents=True)
        write_repository(folder)
        (folder / "conftest.py").write_text(conftest)
        (folder / "bars.toml").write_text(f'["{name}-*"]\nfloor = 0.3\nwhy = "a test of runs"\n')
        (folder / "test_mine.py").write_text(SUITE + STRUCTURE)
        self.folder, self._quantize, self.temporary = folder, quantize, folder.with_name("temporary")
        self.temporary.mkdir()
        self.commands = ("pytest", "quantize") if quantize else ("pytest",)
        self._own = sorted(path.name for path in folder.iterdir())

    def start(self, command: str, into: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        out = into / "out"
        out.mkdir(parents=True, exist_ok=True)
        words = {
            "pytest": [
                *("-m", "pytest", "-q", "-m", "accuracy or structure", "-p", "no:cacheprovider", *arguments),
                *("--ptq-json", str(out / "report.json"), "--ptq-artifacts", str(out)),
            ],
            "quantize": [
                *("-c", f"{NO_TORCH}\nfrom ptq.cli import main\nmain()", "quantize", "model.onnx"),
                *("--calibration", "images.npy", "-o", str(out / "own.onnx"), *self._quantize),
            ],
        }
        path = os.pathsep.join([str(Path(ptq.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        told = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(self.temporary)}
        told |= environment
        for name in ("PTQ_DATA", "GITHUB_STEP_SUMMARY", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
            told.pop(name, None)
        return subprocess.Popen(
            [sys.executable, *words[command]], cwd=self.folder, env={**told, "PTQ_CACHE": str(into / "store")},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, into: Path, *arguments: str, **environment: str) -> dict[str, float]:
        """Every command to its end; what each took, in seconds."""
        took = {}
        for command in self.commands:
            start = time.perf_counter()
            with self.start(command, into, *arguments, **environment) as whole:
                said, _ = whole.communicate(timeout=900)
            assert whole.returncode == 0, said
            took[command] = time.perf_counter() - start
        return took

    def strays(self) -> list[str]:
        """What lies in the repository or the folder for temporary files, and was not put there by a test. Frameworks
        leave files of their own in the latter.
        """
        found = {path.name for path in self.folder.iterdir()} - {*self._own, "__pycache__", ".benchmarks"}
        temporary = (path.relative_to(self.temporary).as_posix() for path in self.temporary.rglob("*"))
        return sorted(found) + sorted(
            name for name in temporary if name != SCRATCH and not name.startswith("pytest-of-")
        )


def left(folder: Path) -> dict[str, str]:
    """Digests of all that runs left in a folder, by name; reports and notes without what things took, and no memory of
    when files were read."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files = {name: path for name, path in files.items() if path.name != "durations.json" and path.parts[-3] != "source"}
    hidden = {path.relative_to(folder).as_posix(): "a folder" for path in folder.rglob(".*") if path.is_dir()}
    return hidden | {name: hashlib.sha256(_content(path)).hexdigest() for name, path in files.items()}


def _content(path: Path) -> bytes:
    if path.name.endswith((".made.json", "report.json")):
        return json.dumps(_timeless(json.loads(path.read_text())), sort_keys=True).encode()
    return path.read_bytes()


def _timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _timeless(value) for name, value in content.items() if name not in ("seconds", "inputs")}
    return [_timeless(each) for each in content] if isinstance(content, list) else content


def different(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The names of what is not the same in both, or in one alone."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def kill(running: subprocess.Popen[str], after: float) -> bool:
    """SIGKILL the whole group of a run, workers and all, after so many seconds; whether it was still running."""
    with running:
        time.sleep(after)
        alive = running.poll() is None
        if alive:
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    return alive


def survive(kills: int, repository: Repository, folder: Path, *arguments: str) -> int:
    """Kill commands at random moments, four on a folder at most, then run to the end; how many were killed."""
    took, usual = repository.run(folder / "clean", *arguments), repository.strays()
    clean, random, killed = left(folder / "clean"), np.random.default_rng(20), 0
    for each in range(kills):
        into = folder / f"killed{each // 4}"
        command = str(random.choice(repository.commands))
        running = repository.start(command, into, *(arguments if command == "pytest" else ()))
        if kill(running, float(random.uniform(0.15, 1.0) * took[command])):
            killed += 1
        else:
            took[command] *= 0.9  # it had ended: the machine has more time for it now
        if each % 4 == 3 or each == kills - 1:
            repository.run(into, *arguments)
            assert different(clean, left(into)) == [], f"after kill {each}"
            assert repository.strays() == usual
    return killed


def vary(runs: int, repository: Repository, folder: Path, workers: Sequence[str] = ("2", "0")) -> None:
    """Run in orders, on workers, with hash seeds and threads drawn at random, each into a folder of its own."""
    repository.run(folder / "first", ORDER="0", PYTHONHASHSEED="0", OMP_NUM_THREADS="1")
    usual = repository.strays()
    first, random = left(folder / "first"), np.random.default_rng(6)
    for each in range(1, runs):
        drawn = {name: str(random.integers(1 << 32)) for name in ("ORDER", "PYTHONHASHSEED")}
        drawn["LC_ALL"] = str(random.choice(["C", "C.UTF-8", "POSIX"]))
        drawn["OMP_NUM_THREADS"], many = str(random.integers(1, 5)), workers[(each - 1) % len(workers)]
        repository.run(folder / str(each), "-n", many, **drawn)
        assert not different(first, left(folder / str(each))), f"-n {many}, {drawn}"
    assert repository.strays() == usual


def digits(folder: Path, *cases: str) -> Repository:
    return Repository(folder, f"{DIGITS}{cases}\n{SHUFFLE}", "digits")


posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")


@posix
def test_three_kills_change_nothing(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "mine", NO_TORCH + FEW, "mine", "--method", "minmax")
    assert survive(3, repository, tmp_path) >= 2


@posix
@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_fifty_kills_change_nothing(workers: str, tmp_path: Path) -> None:
    """With both: a hundred."""
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    repository = Repository(tmp_path / "mine", NO_TORCH + FEW, "mine")
    assert survive(50, repository, tmp_path, "-n", workers) >= 33


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    """Though nobody asks again for what they were making; what is held is not."""
    Store(tmp_path).get(bytes_of(b"here"))
    clean, dead, alive = left(tmp_path), "a" * 64, "b" * 64
    for key in (dead, alive):
        (tmp_path / "locks" / f".making-{key}-x").mkdir(parents=True)
    (tmp_path / "locks" / "run-1-dead.lock").touch()
    with FileLock(tmp_path / "locks" / f"{alive}.lock"), FileLock(tmp_path / "locks" / "run-2-alive.lock"):
        Store(tmp_path).get(bytes_of(b"here"))
        there = {f"locks/.making-{alive}-x", f"locks/{alive}.lock", "locks/run-2-alive.lock"}
        assert {*different(clean, left(tmp_path))} - {f"locks/{dead}.lock"} == there


def test_another_order_hash_seed_and_threads_give_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    vary(2, Repository(tmp_path / "mine", NO_TORCH + FEW + SHUFFLE, "mine"), tmp_path, "0")


@pytest.mark.slow
def test_fifty_runs_of_every_framework_give_the_same_bytes(tmp_path: Path) -> None:
    for needed in ("xdist", "torch", "torchao", "tensorflow", "ai_edge_litert"):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    vary(50, digits(tmp_path / "digits", *ONNXRUNTIME, *OTHERS), tmp_path)


@pytest.mark.slow
def test_fifty_runs_give_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    vary(50, Repository(tmp_path / "mine", NO_TORCH + FEW + SHUFFLE, "mine", "--method", "minmax"), tmp_path)
