"""The README is run, not only read: its files judge a model, its commands and cases exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import click
import numpy as np
import pytest

import ptq
from ptq.cli import commands
from ptq.data import digits
from ptq.engine.pipeline import Pipeline
from ptq.engine.store import Store
from ptq.workloads.digits import MODEL

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def block(language: str, index: int = 0) -> str:
    """The `index`-th code block of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)[index]


def test_the_three_files_judge_a_model(
    pytester: pytest.Pytester, shared_store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTQ_CACHE", str(shared_store_root))
    monkeypatch.delenv("PTQ_DATA", raising=False)
    train, test = digits.read("train"), digits.read("test")
    np.save(pytester.path / "images.npy", np.concatenate([train.inputs[:1000], test.inputs]))
    np.save(pytester.path / "labels.npy", np.concatenate([train.labels[:1000], test.labels]))
    shutil.copyfile(MODEL, pytester.path / "model.onnx")
    (pytester.path / "conftest.py").write_text(block("python", 1))
    (pytester.path / "bars.toml").write_text(block("toml"))
    (pytester.path / "test_readme_mine.py").write_text(block("python", 2))
    result = pytester.runpytest_inprocess(
        "-p", "no:randomly", "-p", "no:cacheprovider", "-m", "accuracy", "-k", "onnxruntime and uint8 and minmax"
    )
    assert result.parseoutcomes()["passed"] == 2
    result.stdout.fnmatch_lines(["mine: n *", "onnxruntime-*uint8-*minmax* *pass*"])


def test_the_python_api_runs_as_it_is_written(
    tmp_path: Path, shared_store_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PTQ_CACHE", str(shared_store_root))
    monkeypatch.chdir(tmp_path)
    train, test = digits.read("train"), digits.read("test")
    np.save("train.npy", train.inputs[:200])
    np.save("test.npy", test.inputs)
    np.save("labels.npy", test.labels)
    shutil.copyfile(MODEL, "model.onnx")
    exec(compile(block("python", 0), "README.md", "exec"), {})
    said = capsys.readouterr().out
    for word in ("top1", "agreement", "SQNR", "integer", "the speed of"):
        assert word in said, said


def test_the_method_from_outside_is_one() -> None:
    space: dict[str, ptq.Method] = {}
    exec(compile(block("python", 3), "README.md", "exec"), space)
    assert space["METHOD"].needs == {"extremes"}


def test_every_command_and_option_it_names_exists() -> None:
    lines = re.findall(r"^ptq (.+)$", README, flags=re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        words = line.split("#")[0].split()
        command: click.Command = commands()
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert command.name != "ptq", line
        known = {name for each in command.params for name in each.opts}
        assert {word for word in words if word.startswith("-")} <= known, line


def test_every_case_it_names_exists() -> None:
    ids = {case.id for each in ptq.builtin_workloads(None) for case in Pipeline(each, Store()).cases()}
    named = set(re.findall(r"`((?:cifar10|digits|coco)-[a-z0-9_]+-[a-z0-9_-]+)`", README))
    assert named
    assert named <= ids


def test_every_ptq_option_of_pytest_it_names_exists(pytester: pytest.Pytester) -> None:
    said = pytester.runpytest_inprocess("--help").stdout.str()
    named = set(re.findall(r"--ptq-[a-z-]+", README))
    assert named
    assert {each for each in named if each not in said} == set()


def test_every_file_it_links_exists() -> None:
    root = Path(__file__).parents[2]
    linked = [each for each in re.findall(r"\]\(([^)]+)\)", README) if "://" not in each]
    linked += re.findall(r"`((?:ptq|tests)/[a-z_/]+\.[a-z]+)`", README)
    assert linked
    assert [each for each in linked if not (root / each).exists()] == []
