"""The table of three searches: what it is made of, and that a search that fails is a row with the reason."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from foreign import images, write_model

import ptq

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def tuners(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("tuners", FOLDER / "tuners.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("peers", None)


def test_the_table_has_what_was_measured_and_why_the_rest_was_not(tuners: ModuleType) -> None:
    took = {
        "seconds": 90.0,
        "processor": 60.0,
        "right": 9,
        "n": 10,
        "ratio": 0.7,
        "bytes": 4000,
        "integer": 1.0,
        "sqnr": 30,
    }
    drop = ptq.Interval(0.25, -1.0, 1.5, 0.95)
    rows = [{"tuner": "ptq", "failed": None, "drop": drop, **took}, {"tuner": "nncf", "failed": "not installed: nncf"}]
    lines = tuners.table("cifar10", 0.5, rows).splitlines()
    assert lines[-2] == "| ptq | 1.5 | 0.5 | 9/10 | +0.25 [-1.00, +1.50] | 0.70 | 4 | 1.00 | 30.0 |"
    assert lines[-1].startswith("| nncf | not installed: nncf |")


def test_ptq_is_judged_on_what_it_has_not_tuned_on(
    tuners: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of both halves, put together again, are halved as they were."""
    write_model(tmp_path / "float.onnx", conv=True)
    x, y = images(200)
    np.savez(tmp_path / "calibration.npz", x=x[:60])
    for which, name in enumerate(("tuned", "reported")):
        np.savez(tmp_path / f"{name}.npz", images=x[60 + which :: 2], labels=y[60 + which :: 2])
    monkeypatch.setattr("ptq.tuning.trial.SECONDS", 0.2)
    seen = []
    real = ptq.tune

    def tune(model: object, calibration: object, data: np.ndarray, targets: np.ndarray, **given: object) -> object:
        seen.append((data, targets))
        return real(model, calibration, data, targets, **given)

    monkeypatch.setattr(ptq, "tune", tune)
    tuners.make("ptq", tmp_path, 5.0, 60.0)
    assert np.array_equal(seen[0][0], x[60:])
    assert np.array_equal(seen[0][1], y[60:])
    assert (tmp_path / "ptq.onnx").is_file()
    assert (tmp_path / "ptq.json").is_file()
