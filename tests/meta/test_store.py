"""Store: made once, whole or not at all, never stale."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ptq import store as store_module
from ptq.errors import PtqError
from ptq.store import Store, default_root, write_bytes


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    store, calls = Store(tmp_path), []

    def make(out: Path) -> dict[str, str]:
        calls.append(out)
        out.write_bytes(b"made")
        return {"said": "hello"}

    first, second = (store.get("artifact", {"model": "m"}, ".onnx", make) for _ in range(2))
    assert len(calls) == 1
    assert (first.made, second.made) == (True, False)
    assert second.path.read_bytes() == b"made"
    assert second.notes == {"said": "hello"}
    assert second.seconds == first.seconds
    assert store.get("artifact", {"model": "other"}, ".onnx", make).path != first.path


def test_a_changed_source_is_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    first = store.get("artifact", {}, ".onnx", lambda out: write_bytes(out, b"1"))
    monkeypatch.setattr(store_module, "source_digest", lambda: "changed")
    assert store.get("artifact", {}, ".onnx", lambda out: write_bytes(out, b"2")).path != first.path


def test_a_failed_make_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(out: Path) -> None:
        out.write_bytes(b"half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        store.get("artifact", {}, ".onnx", fail)
    assert not [path for path in (tmp_path / "artifact").rglob("*") if path.is_file()]
    assert store.get("artifact", {}, ".onnx", lambda out: write_bytes(out, b"whole")).made


def test_threads_that_ask_together_make_it_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def make(out: Path) -> None:
        calls.append(1)
        time.sleep(0.2)
        out.write_bytes(b"x")

    threads = [threading.Thread(target=lambda: Store(tmp_path).get("artifact", {}, ".onnx", make)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(calls) == 1


KILLED = """
import sys, time
from pathlib import Path
from ptq.store import Store
def make(out):
    out.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
Store(Path(sys.argv[1])).get("artifact", {}, ".onnx", make)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_maker_blocks_nobody_and_leaves_no_half_file(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"half\n"
        maker.send_signal(signal.SIGKILL)
    entry = Store(tmp_path).get("artifact", {}, ".onnx", lambda out: write_bytes(out, b"whole"))
    assert entry.made
    assert entry.path.read_bytes() == b"whole"
    left = {each.name for each in (tmp_path / "artifact").rglob("*") if each.is_file() or each.name.startswith(".")}
    assert left == {entry.path.name, f"{entry.path.stem}.made.json"}


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"seconds": null, "notes": {}}'])
def test_what_is_damaged_is_made_again(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    entry = store.get("artifact", {}, ".onnx", lambda out: write_bytes(out, b"1"))
    entry.path.with_name(f"{entry.path.stem}.made.json").write_text(content)
    again = store.get("artifact", {}, ".onnx", lambda out: write_bytes(out, b"2"))
    assert again.made
    assert again.path.read_bytes() == b"2"
    assert not store.get("artifact", {}, ".onnx", lambda out: write_bytes(out, b"3")).made


def test_ptq_cache_moves_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "here"))
    assert default_root() == tmp_path / "here"
    monkeypatch.setenv("PTQ_CACHE", "")
    assert default_root().name == "ptq"


def test_clear_removes_what_the_store_made_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.get("artifact", {}, ".onnx", lambda out: write_bytes(out, b"12345"))
    (tmp_path / "mine.txt").write_text("keep")
    assert [(kind, files) for kind, files, _ in store.usage()] == [("artifact", 1)]
    store.clear()
    assert list(store.usage()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PtqError, match="PTQ_CACHE"):
        Store(tmp_path / "file").get("artifact", {}, ".onnx", lambda out: write_bytes(out, b""))


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_bytes(path, b"old")
    with pytest.raises(TypeError):
        write_bytes(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["out.json"]
