"""`ptq init`: two files that judge a model as soon as a person has filled in what only a person can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from any_model import encoder
from foreign import images, run, write_model

from ptq.cli import main

MINE = ("-m", "accuracy", "-k", "onnxruntime and minmax or fp32 and onnxruntime")
SUITE = ("--pyargs", "ptq.suite", *MINE)


def init(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["init", *map(str, arguments)])
    return int(stop.value.code or 0)


def fill(folder: Path, **values: str) -> None:
    """What a person does: replaces the TODOs."""
    conftest, bars = folder / "conftest.py", folder / "bars.toml"
    text = conftest.read_text()
    for name, value in values.items():
        if name.isupper():
            text = text.replace(f"{name} = 'TODO'", f"{name} = {value!r}").replace(
                f'{name} = "TODO"', f"{name} = {value!r}"
            )
    conftest.write_text(text)
    if "bar" in values:
        lines = [line for line in bars.read_text().splitlines() if "TODO" not in line]
        bars.write_text("\n".join([*lines, f"max_drop = {values['bar']}", "why = 'a test'"]))


@pytest.fixture
def started(repository: pytest.Pytester) -> pytest.Pytester:
    """A folder with a model and its data, and nothing else."""
    for name in ("conftest.py", "bars.toml"):
        (repository.path / name).unlink()
    x, y = images(390)
    np.savez(repository.path / "train.npz", x=x[:90], targets=y[:90])
    np.savez(repository.path / "test.npz", x=x[90:], targets=y[90:])
    return repository


def test_it_runs_as_written_once_the_todos_are_filled(
    started: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init("model.onnx") == 0
    assert "pytest --pyargs ptq.suite -m accuracy" in capsys.readouterr().out
    written = (started.path / "conftest.py").read_text()
    assert "'x': ptq.InputContract((None, 8, 8, 1), dtype='float32')" in written
    assert (written + (started.path / "bars.toml").read_text()).count("# TODO ") == 2
    fill(started.path, CALIBRATION="train.npz", EVALUATION="test.npz", bar="3.0")
    # from a checkout, the shipped suite lies below this repository's own conftest.py; the file of three lines does not
    result = run(started, *MINE)
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["*passed*"])


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "conftest.py: TODO 1 of 2: say where the data"),
        ({"bar": "1.0"}, "conftest.py: TODO 1 of 2: say where the data"),
        ({"CALIBRATION": "train.npz", "EVALUATION": "test.npz"}, "TODO 2 of 2: the largest loss"),
    ],
)
def test_a_todo_left_is_red_and_named(started: pytest.Pytester, values: dict[str, str], line: str) -> None:
    assert init("model.onnx") == 0
    fill(started.path, **values)
    result = run(started, *SUITE)
    assert result.ret != 0
    said = [each for each in result.stdout.lines if line in each]
    assert said, result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_data_that_is_named_is_filled_in_and_must_fit(
    started: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init("model.onnx", "--data", "absent.npz") == 2
    assert "absent.npz: no such file" in capsys.readouterr().err
    assert not (started.path / "conftest.py").exists()
    assert init("model.onnx", "--data", "train.npz") == 0
    assert "CALIBRATION = 'train.npz'" in (started.path / "conftest.py").read_text()


def test_several_inputs_are_named(started: pytest.Pytester) -> None:
    encoder(started.path / "encoder.onnx")
    assert init("encoder.onnx") == 0
    written = (started.path / "conftest.py").read_text()
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert f"{name!r}: ptq.InputContract((None, None), dtype='int64')" in written


@pytest.mark.parametrize("name", ["conftest.py", "bars.toml", "tests/bars.toml"])
def test_nothing_is_overwritten(
    tmp_path: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.onnx")
    (tmp_path / "tests").mkdir()
    (tmp_path / name).write_text("mine")
    assert init("model.onnx") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ptq: {name}: is there already")
    assert len(said.strip().splitlines()) == 1
    assert (tmp_path / name).read_text() == "mine"
    written = {path for path in (tmp_path / "conftest.py", tmp_path / "bars.toml") if path.exists()}
    assert written <= {tmp_path / name}
