"""The README is run, not only read: its files judge a model, its commands and cases exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import click
import numpy as np
import pytest
from some_report import some
from test_verdict import ID

import ptq
from ptq.cli import commands, main
from ptq.data import digits
from ptq.engine.pipeline import Pipeline
from ptq.engine.store import Store
from ptq.report import history
from ptq.report.json import write as write_json
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


def lines(start: str) -> list[str]:
    """The lines of its shell blocks that start with a word, without comments."""
    shell = "\n".join(re.findall(r"^```sh\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE))
    return [line.split("#")[0].strip() for line in shell.splitlines() if line.startswith(f"{start} ")]


def inline(start: str) -> list[str]:
    """The commands in its sentences that start with a word."""
    text = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    return re.findall(rf"`({start} [^`]+)`", text)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's commands name, made by ptq itself where it makes such files."""
    folder = tmp_path_factory.mktemp("desk")
    train, test = digits.read("train"), digits.read("test")
    np.save(folder / "images.npy", train.inputs[:200])
    np.save(folder / "test.npy", test.inputs[:100])
    np.save(folder / "labels.npy", test.labels[:100])
    shutil.copyfile(MODEL, folder / "model.onnx")
    (folder / "bars.toml").write_text(block("toml"))
    for name in ("old.json", "new.json"):
        write_json(folder / name, some())
    history.append(folder / "runs", history.past(some(), "a" * 40))
    return folder


@pytest.mark.parametrize("line", lines("ptq"))
def test_every_command_runs(
    line: str, desk: Path, shared_store_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PTQ_CACHE", str(shared_store_root))
    monkeypatch.chdir(desk)
    words = shlex.split(line)[1:]
    if words[0] == "init":  # it writes where there is nothing yet
        (desk / "empty").mkdir()
        monkeypatch.chdir(desk / "empty")
        shutil.copyfile(MODEL, "model.onnx")
    if words[0] == "convert":
        model = Path(os.environ.get("PTQ_DATA", "/nowhere")) / "models" / words[1]
        pytest.importorskip("tensorflow", reason="tensorflow is not installed")
        if not model.is_file():
            pytest.skip(f"no data: {words[1]}")
        shutil.copyfile(model, words[1])
    if "int8.onnx" in words and not Path("int8.onnx").exists():  # the first line makes it
        main_of(shlex.split(lines("ptq")[0])[1:])
    # 1: a race of random length, or a bar on 50 images that one image misses; neither is what is tested
    assert main_of(words) in ((0, 1) if words[0] in ("compare", "tune") else (0,)), capsys.readouterr().err


def main_of(words: list[str]) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


CALLS = [line for line in (*lines("pytest"), *inline("pytest")) if "tcp://" not in line]  # that needs a scheduler


@pytest.mark.parametrize("line", CALLS)
def test_every_call_of_pytest_is_one_that_pytest_takes(line: str, repository: pytest.Pytester) -> None:
    (repository.path / "DIR").mkdir()
    (repository.path / "DIR" / "data").write_text("")
    result = repository.runpytest_inprocess("-p", "no:cacheprovider", "--collect-only", "-q", *shlex.split(line)[1:])
    assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), result.stdout.str()


@pytest.mark.parametrize("line", inline("ptq"))
def test_every_command_in_a_sentence_is_one_that_ptq_takes(line: str) -> None:
    words, command = shlex.split(line)[1:], commands()
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    known = {option for each in command.params for option in each.opts}
    assert {word for word in words if word.startswith("-")} <= known
    assert not isinstance(command, click.Group) or not words or words[0].startswith("-")  # else it is no command


def test_every_block_and_command_is_of_a_kind_that_is_run() -> None:
    shell = "\n".join(re.findall(r"^```sh\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)).split("\n")
    assert {line.split()[0] for line in shell if line} == {"python", "pip", "pytest", "ptq"}
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    kinds = [kind for kind, _ in blocks]
    assert [kinds.count(each) for each in ("python", "toml", "yaml", "")] == [4, 1, 1, 1]
    assert set(kinds) == {"python", "toml", "yaml", "", "sh"}
    # the line of a failure is the one that a test of verdicts expects
    (failure,) = (text for kind, text in blocks if not kind)
    assert failure.strip() in (Path(__file__).parent / "test_verdict.py").read_text().replace("{ID}", ID)
    tox = (Path(__file__).parents[2] / "tox.ini").read_text()
    assert all(f"[testenv:{each.split()[-1]}]" in tox for each in inline("tox"))


def test_what_sets_up_is_run_by_ci() -> None:
    ci = (Path(__file__).parents[2] / ".ci" / "run").read_text()
    for line in lines("python"):
        assert f"\n{line.split('&&')[-1].strip()}\n" in ci, line
    tox = (Path(__file__).parents[2] / "tox.ini").read_text()
    named = re.findall(r"^\s*tox -e (\w+)", ci, re.MULTILINE)
    assert "all" in named
    assert [each for each in named if f"[testenv:{each}]" not in tox] == []  # tox refuses a name that it cannot parse
    for part in re.findall(r"-m (\w+)", "\n".join(lines("pytest"))):  # on real data, which no test here has
        assert re.search(rf"tox -e all -- -m .*\b{part}\b", ci), part
    extras = set(re.findall(r"'(?:\.|ptq)\[([a-z,]+)\]'", README))
    known = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert extras
    assert extras <= set(known)


def test_the_yaml_of_the_action_names_its_inputs() -> None:
    given = re.search(r"with: \{(.+)\}", block("yaml"))
    assert given
    action = (Path(__file__).parents[2] / "action.yml").read_text()
    names = re.findall(r"(\w+): ", given[1])
    assert names
    assert all(f"\n  {name}:\n" in action for name in names)


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 300


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
    linked += re.findall(r"`((?:ptq|tests|docs)/[a-z_/-]+\.[a-z]+)`", README)
    assert linked
    assert [each for each in linked if not (root / each).exists()] == []
