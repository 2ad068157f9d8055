"""tune: always an artifact, chosen on one half of the samples and reported on the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign import images, write_model

import ptq
from ptq.api.tuned import tune_workload
from ptq.cli import main
from ptq.data.part import part
from ptq.data.samples import ArraySamples
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import BadData, PtqError


@pytest.fixture
def mine(tmp_path: Path) -> Workload:
    write_model(tmp_path / "model.onnx")
    x, y = images(240)
    return Workload("mine", tmp_path / "model.onnx", ArraySamples(x[:80], y[:80]), ArraySamples(x[80:], y[80:]))


def found(workload: Workload, folder: Path, **given: Any) -> ptq.Tuned:
    settings = {"max_drop": 5.0, "minimise": "time", "batch": 1, "seconds": 300.0} | given
    return tune_workload(
        workload, out=folder / "out.onnx", store=Store(folder / "cache"), registry=Registry(), **settings
    )


@pytest.mark.parametrize(("targets", "group"), [(6, 1), (3, 2), (None, 1)])
def test_halves_share_no_sample_and_keep_what_belongs_together(targets: int | None, group: int) -> None:
    @dataclass(frozen=True)
    class Pairs(ArraySamples):
        def __post_init__(self) -> None:
            """Two samples may share a target."""

    x = np.arange(6.0)
    whole = Pairs({"a": x[:, None], "b": list(x)}, None if targets is None else np.arange(targets))
    halves = [part(whole, which).inputs for which in (0, 1)]  # type: ignore[attr-defined]
    rows = [list(half["a"][:, 0]) for half in halves]
    assert sorted(rows[0] + rows[1]) == list(x)
    assert rows[0] == [value for value in x if value // group % 2 == 0]
    assert [half["b"] for half in halves] == rows


def test_samples_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(BadData, match="2 targets or more"):
        part(ArraySamples(np.zeros((1, 2))), 0)
    with pytest.raises(BadData, match="should be a dataclass"):
        part(NotOne(), 0)


class NotOne:
    targets = None

    def __len__(self) -> int:
        return 4


def test_recipes_that_meet_the_bar_end_the_search_and_reported_on_the_other_half(
    mine: Workload, tmp_path: Path
) -> None:
    made = found(mine, tmp_path)
    assert made.met
    assert made.n == 80
    assert made.path.is_file()
    assert len(made.trials) == 3
    assert f'["{made.best.case}"]' in str(made)
    again = found(mine, tmp_path)
    assert again.best.case == made.best.case
    assert again.drop == made.drop


def test_a_bar_that_nothing_meets_gives_the_best_and_says_so(mine: Workload, tmp_path: Path) -> None:
    made = found(replace(mine, metric=Harsh()), tmp_path, max_drop=0.0)
    assert not made.met
    assert made.path.is_file()
    assert len(made.trials) > 3
    assert "misses max_drop 0" in str(made)


class Harsh(ptq.Top1):
    """One point lost, whatever the case."""

    name = "harsh"

    def drop(self, ours: Any, theirs: Any, samples: Any, confidence: float) -> ptq.Interval:
        return ptq.Interval(1.0, 0.5, 2.0, confidence)


def test_no_time_at_all_is_one_line_and_writes_nothing(mine: Workload, tmp_path: Path) -> None:
    with pytest.raises(PtqError, match="no artifact was made yet: the 0 seconds ended"):
        found(mine, tmp_path, seconds=0.0)
    assert not (tmp_path / "out.onnx").exists()


def test_an_interruption_keeps_the_best_so_far(mine: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptq.api import tuned

    real, calls = tuned._Search.tried, [0]

    def tried(self: Any, case: Any, exclude: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return real(self, case, exclude)

    monkeypatch.setattr(tuned._Search, "tried", tried)
    made = found(replace(mine, metric=Harsh()), tmp_path, max_drop=0.0)
    assert made.ended == "interrupted"
    assert made.path.is_file()
    assert len(made.trials) == 2


def test_a_small_file_may_be_asked_for(mine: Workload, tmp_path: Path) -> None:
    fast, small = found(mine, tmp_path), found(mine, tmp_path, minimise="size", max_drop=60.0)
    assert small.best.case.dtype == "u8s4"
    assert small.best.size_bytes < fast.best.size_bytes


def test_the_command_writes_the_file_and_the_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "cache"))
    write_model(tmp_path / "model.onnx")
    x, y = images(160)
    for name, values in (("train.npy", x[:60]), ("test.npy", x[60:]), ("labels.npy", y[60:])):
        np.save(name, values)
    words = ["tune", "model.onnx", "--calibration", "train.npy", "--data", "test.npy", "--targets", "labels.npy"]
    with pytest.raises(SystemExit) as left:
        main([*words, "--max-drop", "5", "-o", "out.onnx"])
    assert left.value.code == 0
    assert "max_drop = 5" in capsys.readouterr().out.splitlines()
    assert onnx.load("out.onnx").graph.node
    with pytest.raises(SystemExit) as left:
        main([*words[:2], "--max-drop", "5", "-o", "out.onnx"])
    assert left.value.code == 2
    assert "needs --calibration and --data" in capsys.readouterr().err
