"""Stamps: a file that stays is read once, whatever runs; one that changes is read again, whatever its time says."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ptq.stamps import Stamps

YEAR = 31_536_000 * 10**9


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says that every file was written long ago."""
    import time

    now = time.time_ns
    monkeypatch.setattr("ptq.stamps.time.time_ns", lambda: now() + YEAR)


def closed(memory: list[Stamps]) -> None:
    """The process that has the memory ends."""
    memory.clear()
    gc.collect()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.usefixtures("later")
def test_what_was_read_is_read_in_no_later_run(tmp_path: Path) -> None:
    file, read = tmp_path / "model.onnx", list[Path]()

    def first_byte(path: Path) -> list[int]:
        read.append(path)
        return [path.read_bytes()[0]]

    file.write_bytes(b"abc")
    for _run in range(3):
        memory = [Stamps(tmp_path / "cache")]
        assert memory[0].digest(file) == sha256(b"abc")
        assert memory[0].answer("first byte 1", file, first_byte) == [97]
        closed(memory)
    assert read == [file]
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(b"abc")
    memory = [Stamps(tmp_path / "cache")]
    assert memory[0].answer("first byte 1", copy, first_byte) == [97]
    assert read == [file]
    assert memory[0].answer("first byte 2", copy, first_byte) == [97]
    assert read == [file, copy]


@pytest.mark.usefixtures("later")
def test_a_file_with_its_old_size_and_time_is_read_again(tmp_path: Path) -> None:
    """Whoever sets a file's time back cannot set back the time at which that was done."""
    file = tmp_path / "samples.npy"
    file.write_bytes(b"abc")
    before, memory = file.stat(), [Stamps(tmp_path / "cache")]
    assert memory[0].digest(file) == sha256(b"abc")
    closed(memory)
    file.write_bytes(b"xyz")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert Stamps(tmp_path / "cache").digest(file) == sha256(b"xyz")


def test_a_file_just_written_is_not_remembered(tmp_path: Path) -> None:
    """Its next change may have the same stamp, where clocks are coarse."""
    file = tmp_path / "samples.npy"
    file.write_bytes(b"abc")
    memory = [Stamps(tmp_path / "cache")]
    assert memory[0].digest(file) == sha256(b"abc")
    closed(memory)
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("damage", ["digest", "half", "list", "empty", "pipe", "link", "folder"])
def test_a_damaged_memory_is_none(tmp_path: Path, damage: str) -> None:
    file, cache, outside = tmp_path / "model.onnx", tmp_path / "cache", tmp_path / "outside"
    file.write_bytes(b"abc")
    outside.write_bytes(b"mine")
    memory = [Stamps(cache)]
    memory[0].digest(file)
    closed(memory)
    (kept,) = cache.rglob("*.json")
    text = kept.read_text()
    match damage:
        case "digest":
            kept.write_text(text.replace(sha256(b"abc"), "0" * 64))
        case "half":
            kept.write_text(text[: len(text) // 2])
        case "list" | "empty":
            kept.write_text("[]" if damage == "list" else "")
        case _:
            kept.unlink()
            {"pipe": os.mkfifo, "link": lambda path: path.symlink_to(outside), "folder": Path.mkdir}[damage](kept)
    memory = [Stamps(cache)]
    assert memory[0].digest(file) == sha256(b"abc")
    closed(memory)
    assert outside.read_bytes() == b"mine"
    if damage != "folder":
        assert json.loads(kept.read_text())["files"][str(file)][1] == sha256(b"abc")


@pytest.mark.usefixtures("later")
def test_what_is_gone_is_forgotten_and_what_others_read_is_not(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file in files:
        file.write_bytes(file.name.encode())
    one, two = [Stamps(tmp_path / "cache")], [Stamps(tmp_path / "cache")]
    one[0].answer("size 1", files[0], lambda path: path.stat().st_size)
    one[0].digest(files[1])
    two[0].digest(files[2])
    files[1].unlink()
    closed(one)
    closed(two)
    (kept,) = (tmp_path / "cache").rglob("*.json")
    content = json.loads(kept.read_text())
    assert list(content["files"]) == [str(files[0]), str(files[2])]
    assert content["found"] == {"size 1": {sha256(b"a"): 1}}
    files[0].unlink()
    last = [Stamps(tmp_path / "cache")]
    files[0].write_bytes(b"other")
    last[0].digest(files[0])
    closed(last)
    assert json.loads(kept.read_text())["found"] == {"size 1": {}}


def test_a_process_writes_what_it_read_when_it_ends(tmp_path: Path) -> None:
    """Through the public door, on this very file."""
    code = f"from ptq.stamps import known_digest; from pathlib import Path; print(known_digest(Path({__file__!r})))"
    environment = {**os.environ, "PTQ_CACHE": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert said.stdout.strip() == sha256(Path(__file__).read_bytes())
    (kept,) = tmp_path.rglob("*.json")
    assert list(json.loads(kept.read_text())["files"]) == [__file__]
