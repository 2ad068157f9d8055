"""The table of the peers: what it is made of, and that a peer that fails is a row with the reason."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from any_model import autoencoder
from test_reports import row, time

from ptq.report.json import report

FOLDER = Path(__file__).parents[1] / "benchmarks"
RECIPES = sorted((FOLDER / "recipes").glob("*.py"))


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers", FOLDER / "peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_needs_and_loads_without_its_tool(path: Path, peers: ModuleType) -> None:
    found = peers.load(path)
    assert found.REQUIRES
    assert found.DTYPE in ("u8s8", "int8")
    for name in peers.RECIPES:
        assert getattr(found, name).__doc__
    assert ":" in found.__doc__.splitlines()[0]


def test_the_table_has_what_was_measured_and_why_the_rest_was_not(peers: ModuleType) -> None:
    rows: dict[str, dict[str, Any]] = {
        "tool_documented": {"peer": "Tool, documented", "dtype": "u8s8", "failed": None, "seconds": 12.34, "mb": 640.0},
        "tool_best": {"peer": "Tool, best", "dtype": "u8s8", "failed": "ValueError: no such node"},
        "gone_best": {"peer": "Gone, best", "dtype": "int8", "failed": "not installed: no matching distribution"},
    }
    case = "digits-onnxruntime-u8s8-tool_documented"
    results = [row("u8s8", 30, method="tool_documented", correct=370), row("u8s8", 22, correct=378), row("fp32", 20)]
    content = report(results, {"cpu": "some", "isa": ["avx2"]}, latency=[time(0.5, stands_for=[case])])
    lines = peers.table("digits", rows, content, {"tool_documented": "371/400, 0.9800, 21.0"}).splitlines()
    assert lines[4:] == [
        "| ptq, minmax (`u8s8`) | 378/400 | 0.9950 | 20.0 | 1.00 |  |  |  |  |  |",
        "| Tool, documented (`u8s8`) | 370/400 | 0.9750 | 20.0 | 1.00 | 0.50 |  | 12.3 | 640 | 371/400, 0.9800, 21.0 |",
        "| Tool, best | | | | | | | | | ValueError: no such node |",
        "| Gone, best | | | | | | | | | not installed: no matching distribution |",
    ]


def test_a_recipe_that_fails_says_its_last_words_and_one_that_works_what_it_took(
    peers: ModuleType, tmp_path: Path
) -> None:
    model = autoencoder(tmp_path / "model.onnx")
    np.savez(tmp_path / "inputs.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    recipe = tmp_path / "tool.py"
    recipe.write_text(
        '"""Tool: a test."""\nREQUIRES = ("numpy",)\nDTYPE = "u8s8"\n'
        "def documented(model, inputs, out):\n    out.write_bytes(model.read_bytes() + bytes(len(inputs)))\n"
        "def best(model, inputs, out):\n    raise ValueError('no such node')\n"
    )
    rows = peers.made(recipe, sys.executable, model, tmp_path / "inputs.npz", tmp_path)
    assert rows["tool_best"]["failed"] == "ValueError: no such node"
    assert rows["tool_documented"]["failed"] is None
    assert rows["tool_documented"]["peer"] == "Tool, documented"
    assert rows["tool_documented"]["mb"] > 1
    assert (tmp_path / "tool_documented.onnx").is_file()


def test_what_is_installed_here_needs_no_environment_of_its_own(peers: ModuleType, tmp_path: Path) -> None:
    found = ModuleType("recipe")
    found.REQUIRES = ("numpy", "onnx")  # type: ignore[attr-defined]
    assert peers.environment("numpy", found, tmp_path) == (sys.executable, None)
    assert list(tmp_path.iterdir()) == []
