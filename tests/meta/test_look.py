"""Preprocessing checks that held are known by what they looked at; what is red is looked at in every run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import images, write_model

import ptq
from ptq.checks.look import looked
from ptq.checks.preprocessing import checks
from ptq.data.batch import as_batch
from ptq.data.reader import Reader
from ptq.data.samples import ArraySamples, Samples
from ptq.engine.pipeline import Pipeline
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import BadData, Unsupported

READ: list[str] = []


def rows(folder: Path, name: str) -> ArraySamples:
    READ.append(name)
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    part = {"calibration": slice(0, 90), "evaluation": slice(90, None), "as_evaluated": slice(None)}[name]
    return ArraySamples(x[part], y[part])


def reader(folder: Path, name: str) -> Reader:
    return Reader(partial(rows, folder, name), lambda: [folder / "x.npy", folder / "y.npy"])


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    x, y = images(390)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    write_model(tmp_path / "model.onnx")
    READ.clear()
    return {
        "calibration": reader(tmp_path, "calibration"),
        "evaluation": reader(tmp_path, "evaluation"),
        "as_evaluated": reader(tmp_path, "as_evaluated"),
        "contract": ptq.InputContract((None, 8, 8, 1), "NHWC", low=0, high=16),
        "invariants": {"bright": partial(dark, 1.0)},
    }


def said(folder: Path, given: Mapping[str, Any]) -> dict[str, str]:
    """What every check says, in a run of its own on one store; what it made is under ``made``."""
    found, store = dict[str, str](), Store(folder / "cache")
    pipeline = Pipeline(Workload("mine", folder / "model.onnx", **given), store)
    for check in checks():
        try:
            looked(pipeline, check)
        except (BadData, Unsupported) as error:
            found[check.name] = str(error)
    found["made"] = " ".join(kind for (kind, how), n in sorted(store.counts.items()) if how == "made" for _ in range(n))
    return found


def test_what_held_is_not_looked_at_again(tmp_path: Path, given: dict[str, Any]) -> None:
    first = said(tmp_path, given)
    assert set(first) == {"channels", "made"}  # no means are known: it does not apply
    assert first["made"].split().count("check") == len(checks())
    assert {"calibration", "evaluation", "as_evaluated"} <= set(READ)
    READ.clear()
    assert said(tmp_path, given) == {**first, "made": ""}
    assert READ == []


def test_what_changes_is_looked_at_again(tmp_path: Path, given: dict[str, Any]) -> None:
    first = said(tmp_path, given)
    x = np.load(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.where(np.arange(len(x)).reshape(-1, 1, 1, 1) < 90, x / 255, x))
    assert {"range", "accuracy"} <= set(said(tmp_path, given)) - set(first)
    np.save(tmp_path / "x.npy", x)
    assert said(tmp_path, given) == {**first, "made": ""}
    write_model(tmp_path / "model.onnx", scale=0.5)
    assert "check" in said(tmp_path, given)["made"].split()
    assert said(tmp_path, {**given, "unchecked": {"balance": "rare"}})["balance"] == "rare"


@pytest.mark.parametrize("files", [True, False])
def test_images_read_as_for_evaluation_count_by_their_files(tmp_path: Path, given: dict[str, Any], files: bool) -> None:
    """A function that does not say which files it reads, is called in every run."""
    given["as_evaluated"] = given["as_evaluated"] if files else partial(rows, tmp_path, "as_evaluated")
    said(tmp_path, given)
    READ.clear()
    assert said(tmp_path, given)["made"] == ""
    assert ("as_evaluated" in READ) != files


def test_what_is_red_stays_red(tmp_path: Path, given: dict[str, Any]) -> None:
    given["invariants"] = {"bright": partial(dark, 100.0)}
    first = said(tmp_path, given)
    assert first["invariants"] == "bright: dark"
    assert said(tmp_path, given)["invariants"] == "bright: dark"
    given["invariants"] = {"bright": partial(dark, 1.0)}
    assert "invariants" not in said(tmp_path, given)


def dark(least: float, samples: Samples) -> None:
    if max(float(as_batch(batch)[""].max()) for batch in samples.batches(10)) < least:
        raise BadData("dark")
