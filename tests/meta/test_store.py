"""Store: made once, whole or not at all, never stale, never believed unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ptq.engine.step import Step
from ptq.engine.store import Store
from ptq.errors import PtqError, Unsupported
from ptq.files import cache_folder, write_bytes


@dataclass(frozen=True, eq=False)
class Make(Step):
    """A step that writes what it is told."""

    kind: ClassVar[str] = "artifact"
    content: Callable[[Path], Mapping[str, str] | None]
    key_of: Any = ""

    @property
    def suffix(self) -> str:
        return ".onnx"

    def settings(self) -> Mapping[str, Any]:
        return {"of": self.key_of}

    def make(self, out: Path, store: Store) -> Mapping[str, str] | None:
        return self.content(out)


def bytes_of(content: bytes, of: object = "") -> Make:
    return Make(lambda out: write_bytes(out, content), of)


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    store, calls = Store(tmp_path), []

    def make(out: Path) -> dict[str, str]:
        calls.append(out)
        out.write_bytes(b"made")
        return {"said": "hello"}

    first, second = (store.get(Make(make)) for _ in range(2))
    assert len(calls) == 1
    assert (first.made, second.made) == (True, False)
    assert second.path.read_bytes() == b"made"
    assert second.notes == {"said": "hello"}
    assert second.seconds == first.seconds
    assert store.get(Make(make, "other")).path != first.path
    assert store.counts == {("artifact", "made"): 2, ("artifact", "found"): 1}


@pytest.mark.parametrize(
    ("cause", "kept"),
    [(ValueError("no such operator"), True), (MemoryError(), False), (OSError("disk"), False),
     (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False)],
)  # fmt: skip
def test_why_a_step_cannot_be_is_kept_unless_it_may_pass(tmp_path: Path, cause: Exception, kept: bool) -> None:
    calls = []

    def make(out: Path) -> None:
        calls.append(out)
        out.write_bytes(b"half of")
        raise Unsupported("not with this operator") from cause

    stores = [Store(tmp_path), Store(tmp_path)]
    for store in stores:
        with pytest.raises(Unsupported, match=r"^not with this operator$"):
            store.get(Make(make))
    assert len(calls) == (1 if kept else 2)
    assert stores[1].counts == ({("artifact", "found"): 1} if kept else {})
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"half of"] == []


def test_the_time_of_a_step_leaves_out_those_it_asks_for(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def inner(out: Path) -> None:
        time.sleep(0.3)
        out.write_bytes(b"inner")

    def outer(out: Path) -> None:
        store.get(Make(inner, "inner"))
        out.write_bytes(b"outer")

    entry = store.get(Make(outer, "outer"))
    assert entry.seconds < 0.3
    assert [(kind, seconds >= 0.3) for kind, seconds in entry.inputs] == [("artifact", True)]
    assert Store(tmp_path).get(Make(outer, "outer")).inputs == entry.inputs


def test_a_failed_make_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(out: Path) -> None:
        out.write_bytes(b"half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        store.get(Make(fail))
    assert not [path for path in (tmp_path / "artifact").rglob("*") if path.is_file()]
    assert store.get(bytes_of(b"whole")).made


def test_threads_that_ask_together_make_it_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def make(out: Path) -> None:
        calls.append(1)
        time.sleep(0.2)
        out.write_bytes(b"x")

    threads = [threading.Thread(target=lambda: Store(tmp_path).get(Make(make))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_store import Make
from ptq.engine.store import Store
def make(out):
    out.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
Store(Path(sys.argv[1])).get(Make(make))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_maker_blocks_nobody_and_leaves_no_half_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"half\n"
        maker.send_signal(signal.SIGKILL)
    entry = Store(tmp_path).get(bytes_of(b"whole"))
    assert entry.made
    assert entry.path.read_bytes() == b"whole"
    left = {path.name for path in (tmp_path / "artifact").rglob("*") if path.is_file() or path.name.startswith(".")}
    assert left == {entry.path.name, f"{entry.path.stem}.made.json"}
    Store(tmp_path).clear()  # the killed run does not count as one that uses it


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"seconds": null, "notes": {}}', '{"digest": "00"}'])
def test_a_damaged_note_is_made_again(tmp_path: Path, content: str) -> None:
    said: list[str] = []
    store = Store(tmp_path, said.append)
    entry = store.get(bytes_of(b"1"))
    entry.path.with_name(f"{entry.path.stem}.made.json").write_text(content)
    again = store.get(bytes_of(b"2"))
    assert again.made
    assert again.path.read_bytes() == b"2"
    assert len(said) >= 1
    assert "made again" in said[0]
    assert not store.get(bytes_of(b"3")).made


@pytest.mark.parametrize("damage", [b"0", b"", b"11"])
def test_one_changed_byte_is_seen_said_and_made_again(tmp_path: Path, damage: bytes) -> None:
    Store(tmp_path).get(bytes_of(b"1")).path.write_bytes(damage)
    said: list[str] = []
    store = Store(tmp_path, said.append)
    assert store.get(bytes_of(b"1")).path.read_bytes() == b"1"
    assert store.counts["artifact", "made"] == 1
    assert len(said) >= 1
    assert all("damaged; made again" in line for line in said)


def test_a_changed_byte_costs_nothing_until_the_file_is_read(tmp_path: Path) -> None:
    Store(tmp_path).get(bytes_of(b"1")).path.write_bytes(b"0")
    said: list[str] = []
    entry = Store(tmp_path, said.append).get(bytes_of(b"1"))
    assert (entry.size, said) == (1, [])
    assert entry.path.read_bytes() == b"1"  # the store is gone meanwhile
    assert entry.file.read_bytes() == b"1"


def test_other_bytes_than_those_that_were_damaged_stop_the_run(tmp_path: Path) -> None:
    made = iter((b"1", b"2"))
    step = Make(lambda out: out.write_bytes(next(made)) and None)
    Store(tmp_path).get(step).path.write_bytes(b"0")
    store = Store(tmp_path)
    entry = store.get(step)
    with pytest.raises(PtqError, match="other bytes were made again: run it once more"):
        _ = entry.path
    assert store.get(step).path.read_bytes() == b"2"


def test_ptq_cache_moves_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.setenv("PTQ_CACHE", "")
    assert cache_folder().name == "ptq"


def test_clear_removes_what_the_store_made_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.get(bytes_of(b"12345"))
    kept = [tmp_path / "mine.txt", tmp_path / "artifact" / "thesis.tex", tmp_path / "artifact" / "ab" / "notes.md"]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("keep")
    assert [(kind, files) for kind, files, _ in store.usage()] == [("artifact", 3)]
    store.clear()
    assert [path.read_text() for path in kept] == ["keep"] * 3
    assert {path for path in (tmp_path / "artifact").rglob("*") if path.is_file()} == set(kept[1:])


def test_a_folder_that_no_store_marked_is_not_cleared(tmp_path: Path) -> None:
    (tmp_path / "artifact" / "ab").mkdir(parents=True)
    mine = tmp_path / "artifact" / "ab" / f"{'0' * 64}.onnx"
    mine.write_text("keep")
    with pytest.raises(PtqError, match="by hand"):
        Store(tmp_path).clear()
    assert mine.read_text() == "keep"


def test_a_store_that_another_run_uses_is_not_cleared(tmp_path: Path) -> None:
    running = Store(tmp_path)
    entry = running.get(bytes_of(b"1"))
    with pytest.raises(PtqError, match="another run uses it"):
        Store(tmp_path).clear()
    assert entry.path.read_bytes() == b"1"
    del running
    Store(tmp_path).clear()
    assert not entry.file.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PtqError, match="PTQ_CACHE"):
        Store(tmp_path / "file").get(bytes_of(b""))


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_bytes(path, b"old")
    with pytest.raises(TypeError):
        write_bytes(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["out.json"]


def test_a_folder_with_a_users_things_is_not_marked_for_backups_to_leave_out(tmp_path: Path) -> None:
    """``PTQ_CACHE=$HOME``: whoever has CACHEDIR.TAG in it is in no backup."""
    (tmp_path / "thesis.tex").write_text("mine")
    Store(tmp_path).get(bytes_of(b"here"))
    assert not (tmp_path / "CACHEDIR.TAG").exists()
    Store(tmp_path).clear()
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    Store(tmp_path / "new").get(bytes_of(b"here"))
    assert (tmp_path / "new" / "CACHEDIR.TAG").is_file()
