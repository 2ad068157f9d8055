"""Files: whole or not at all, through what is no regular file, and with the mode a user expects."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from ptq.files import appearing, scratch, sweep_scratch, write_bytes

posix = pytest.mark.skipif(os.name != "posix", reason="modes, links and pipes are POSIX's")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, umask: int, expected: int) -> None:
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "new", b"1")
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == expected


@posix
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"1")
    path.chmod(0o640)
    write_bytes(path, b"2")
    assert (mode(path), path.read_bytes()) == (0o640, b"2")


@posix
def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    target.write_bytes(b"1")
    link.symlink_to(target)
    write_bytes(link, b"2")
    assert link.is_symlink()
    assert target.read_bytes() == b"2"


@posix
def test_a_pipe_is_written_through_and_a_device_stays_one(tmp_path: Path) -> None:
    pipe, said = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: said.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"through")
    reader.join(10)
    assert said == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_bytes(Path(os.devnull), b"gone")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def fail() -> None:
        with appearing(path) as file:
            file.write(b"half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["out"]


def test_scratch_of_a_killed_process_goes_with_the_next_run_and_that_of_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    code = "from ptq.files import scratch\nwith scratch() as f: (f / 'x').touch(); print(f, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().decode().strip())
        sweep_scratch()
        assert (left / "x").is_file()
        other.kill()
        other.wait()
        with scratch() as mine:
            sweep_scratch()
            assert mine.is_dir()
            assert not left.exists()
    assert list(mine.parent.iterdir()) == []


@posix
def test_scratch_is_never_in_a_folder_that_others_can_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "x.lock").touch()
    name = tmp_path / f"ptq-scratch-{os.getuid()}"
    for make in (lambda: name.symlink_to(tmp_path / "theirs"), name.touch, name.mkdir):
        make()
        if name.is_dir() and not name.is_symlink():
            name.chmod(0o777)
        sweep_scratch()
        with scratch() as folder:
            assert folder.parent == tmp_path
        name.rmdir() if name.is_dir() and not name.is_symlink() else name.unlink()
    assert (tmp_path / "theirs" / "x.lock").exists()
