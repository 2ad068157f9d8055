"""Progress: what a run says of itself while it runs, on a terminal and in a log."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from foreign import run, write_repository

from ptq.engine.durations import Durations
from ptq.plugin.progress import RARELY_SECONDS, SELDOM_SECONDS, Progress

Told = tuple[Progress, list[str], Callable[[float], None]]


def made(updating: bool, known: dict[str, float] | None = None) -> Told:
    """(progress, what it wrote, what moves its clock)."""
    now, wrote = [0.0], list[str]()
    progress = Progress(wrote.append, updating, known or {}, lambda: now[0])
    return progress, wrote, lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_it_says_how_far_how_long_and_what() -> None:
    progress, _, passed = made(False, {"a": 10.0, "b": 30.0, "c": 60.0, "gone": 900.0})
    progress.expect(["a", "b", "c"])
    assert progress.text() == "ptq: 0 of 3"  # nothing ended yet, so its pace is unknown
    passed(5)
    progress.done("a")
    assert progress.text() == "ptq: 1 of 3, about 45 s left"  # twice as fast as before: half of 90
    progress.doing("quantizing")
    assert progress.text() == "ptq: 1 of 3, about 45 s left: quantizing"
    progress.done("b")
    progress.done("c")
    assert progress.text() == "ptq: 3 of 3"
    progress.done("of another plugin")
    assert progress.text() == "ptq: 3 of 3"


@pytest.mark.parametrize(("seconds", "words"), [(40, "40 s"), (600, "10 min"), (36000, "10.0 h")])
def test_a_test_that_never_ran_takes_the_mean_and_times_are_spoken(seconds: float, words: str) -> None:
    progress, _, passed = made(False)
    progress.expect(["a", "b"])
    passed(seconds)
    progress.done("a")
    assert progress.text() == f"ptq: 1 of 2, about {words} left"


def test_a_log_gets_plain_lines_and_few() -> None:
    progress, wrote, passed = made(False)
    progress.expect(["a", "b"])
    progress.doing("one")
    passed(SELDOM_SECONDS / 2)
    progress.doing("two")
    progress.done("a")
    passed(SELDOM_SECONDS)
    progress.doing("three")
    passed(RARELY_SECONDS)
    progress.done("b")
    progress.clear()
    assert wrote == ["\nptq: 0 of 2: one ...\n", "\nptq: 1 of 2, about 15 s left: three ...\n", "\nptq: 2 of 2\n"]


def test_a_terminal_gets_one_line_that_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    progress, wrote, _ = made(True)
    progress.expect(["a"])
    progress.clear()
    assert wrote == []
    progress.doing("a very long name \x1b[31m of a model")
    assert wrote[0].endswith("\x1b[B\rptq: 0 of 1: a very\x1b[K\x1b8")  # cut, so that it never wraps
    progress.clear()
    progress.clear()
    assert wrote[1:] == ["\x1b7\x1b[B\r\x1b[K\x1b8"]


def test_durations_keep_the_longest_and_survive_damage(tmp_path: Path) -> None:
    kept = Durations(tmp_path)
    assert kept.load() == {}
    kept.add({"a": 2.0, "b": 1.0})
    kept.add({"a": 0.1, "c": 3.0})  # a second run found a in the store
    assert kept.load() == {"b": 1.0, "a": 2.0, "c": 3.0}
    for damage in ("{", "[]", '{"a": "x"}'):
        (tmp_path / "durations.json").write_text(damage)
        assert kept.load() == {}
    kept.clear()
    assert list(tmp_path.iterdir()) == []
    Durations(tmp_path / "absent").add({"a": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_a_run_remembers_its_tests(repository: pytest.Pytester, store_root: Path) -> None:
    run(repository, "-k", "fp32")
    assert list(Durations(store_root).load()) == ["test_mine.py::test_accuracy[mine-onnxruntime-fp32]"]


def on_terminal(folder: Path, *arguments: str) -> str:
    """What pytest writes to a terminal of 80 columns."""
    environment = {
        **os.environ,
        "TERM": "xterm",
        "COLUMNS": "80",
        "PTQ_CACHE": str(folder / "cache"),
        "PYTHONWARNINGS": "",
    }
    for name in ("CI", "PTQ_DATA", "PYTEST_ADDOPTS", "TOX_ENV_NAME", "GITHUB_STEP_SUMMARY"):
        environment.pop(name, None)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments]
    process = subprocess.Popen(command, cwd=folder, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], 120)[0]:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait(60) == 0, seen.decode()
    return seen.decode()


STATUS = re.compile(r"\x1bD\x1b\[A\x1b7\x1b\[B\r(ptq: [^\x1b]*)\x1b\[K\x1b8|\x1b7\x1b\[B\r\x1b\[K\x1b8")


def test_pytest_on_a_terminal_shows_the_line_and_its_own_dots_stay_whole(tmp_path: Path) -> None:
    write_repository(tmp_path)
    seen = on_terminal(tmp_path)
    told = [match[1] for match in STATUS.finditer(seen) if match[1]]
    assert told[0].startswith("ptq: 1 of 7")
    assert told[-1] == "ptq: 7 of 7"
    rest = re.sub(r"\x1b\[[0-9;]*m", "", STATUS.sub("", seen))
    assert "\x1b" not in rest
    assert re.search(r"^test_mine\.py \.{7} +\[100%\]\r$", rest, re.MULTILINE)
    *_, last = STATUS.finditer(seen)
    assert last[1] is None  # taken back before the summary
    assert seen.index("= ptq =") > last.end()


def test_quiet_runs_and_those_that_show_output_have_no_such_line(tmp_path: Path) -> None:
    write_repository(tmp_path)
    assert not STATUS.search(on_terminal(tmp_path, "-q"))
    assert not STATUS.search(on_terminal(tmp_path, "-s"))
