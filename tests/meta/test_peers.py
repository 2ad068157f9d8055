"""The table of the peers: what it is made of, and that a peer that fails is a row with the reason."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from any_model import autoencoder
from some_report import row

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
    assert found.documented.__doc__
    assert not hasattr(found, "best") or found.best.__doc__
    assert ":" in found.__doc__.splitlines()[0]


def test_the_table_has_what_was_measured_and_why_the_rest_was_not(peers: ModuleType) -> None:
    took = {"failed": None, "seconds": 12.34, "cpu": 8.1, "mb": 640.0, "version": "1.2", "dtype": "u8s8"}
    rows: dict[str, dict[str, Any]] = {
        "tool_documented": {"peer": "Tool, documented", **took},
        "near_best": {"peer": "Near, best", **took},
        "tool_best": {"peer": "Tool, best", "dtype": "u8s8", "failed": "ValueError: no such node"},
        "gone_best": {"peer": "Gone, best", "dtype": "int8", "failed": "not installed: no matching distribution"},
    }
    results = [
        row("u8s8", 30, method="tool_documented", correct=370), row("u8s8", 22, method="near_best", correct=378),
        row("fp32", 20, correct=380),
    ]  # fmt: skip
    content = report(results, {"cpu": "some", "isa": ["avx2"]})
    exact = {"tool_documented": (371, 0.98, 21.0)}
    lines = peers.table("digits", rows, content, exact, {"tool_documented": {1: 0.5}}).splitlines()
    assert lines[2:6] == [
        "| Near, best (1.2, `u8s8`) | 378 | 0.9950 | 20.0 | 378 | 1.00 |  |  | 12 (8) | 640 |",
        "| Tool, documented (1.2, `u8s8`) | 371 | 0.9800 | 21.0 | 370 | 1.00 | 0.50 |  | 12 (8) | 640 |",
        "| Tool, best | | | | | | | | | ValueError: no such node |",
        "| Gone, best | | | | | | | | | not installed: no matching distribution |",
    ]
    assert lines[7].startswith("digits: FP32 380/400, on some (avx2). It has no VNNI")
    assert {line.count("|") for line in lines[:6]} == {11}


def test_a_bias_whose_axis_only_the_optimizer_mends_is_mended(peers: ModuleType, tmp_path: Path) -> None:
    model = autoencoder(tmp_path / "model.onnx")
    loaded = onnx.load(model)
    node = onnx.helper.make_node("DequantizeLinear", ["flat", "scale"], ["out"], axis=1)
    loaded.graph.node.append(node)
    loaded.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.int32), "flat"))
    onnx.save(loaded, model)
    assert onnx.load_from_string(peers.unoptimized(model)).graph.node[-1].attribute[0].i == 0


def test_files_of_the_same_nodes_and_shapes_are_raced_once(peers: ModuleType, tmp_path: Path) -> None:
    paths = [autoencoder(tmp_path / f"{name}.onnx") for name in ("one", "two")]
    changed = onnx.load(paths[1])
    values = onnx.numpy_helper.to_array(changed.graph.initializer[0])
    changed.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(2 * values, changed.graph.initializer[0].name))
    onnx.save(changed, paths[1])
    one, two = (peers.graph_of({"backend": "onnxruntime", "path": path}) for path in paths)
    assert one == two
    changed.graph.node.pop()
    onnx.save(changed, paths[1])
    assert peers.graph_of({"backend": "onnxruntime", "path": paths[1]}) != one
    assert peers.graph_of({"backend": "torch", "path": "a.pt"}) != peers.graph_of({"backend": "torch", "path": "b.pt"})


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
    rows = peers.made(recipe, sys.executable, None, model, tmp_path / "inputs.npz", tmp_path)
    assert rows["tool_best"]["failed"] == "ValueError: no such node"
    assert rows["tool_documented"]["failed"] is None
    assert rows["tool_documented"]["peer"] == "Tool, documented"
    assert rows["tool_documented"]["mb"] > 1
    assert rows["tool_documented"]["version"] == np.__version__
    assert (tmp_path / "tool_documented.onnx").is_file()
    gone = peers.made(recipe, sys.executable, "not installed: no wheel", model, tmp_path / "inputs.npz", tmp_path)
    assert [row["failed"] for row in gone.values()] == ["not installed: no wheel"] * 2


def test_a_recipe_that_takes_too_long_is_ended(peers: ModuleType, tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", x=np.zeros(1, np.float32))
    recipe = tmp_path / "tool.py"
    recipe.write_text(
        '"""Tool: a test."""\nREQUIRES = ("numpy",)\nDTYPE = "u8s8"\ndef best(*_):\n    while True: pass\n'
    )
    rows = peers.made(recipe, sys.executable, None, tmp_path / "m.onnx", tmp_path / "inputs.npz", tmp_path, 1)
    assert [(key, row["failed"]) for key, row in rows.items()] == [("tool_best", "over 1 s of the processor")]


def test_what_is_installed_here_needs_no_environment_of_its_own(peers: ModuleType, tmp_path: Path) -> None:
    found = ModuleType("recipe")
    found.REQUIRES = ("numpy", "onnx")  # type: ignore[attr-defined]
    assert peers.environment("numpy", found, tmp_path) == (sys.executable, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_environment_lies_over_this_one_and_a_package_that_is_nowhere_is_a_reason(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    found = ModuleType("recipe")
    found.REQUIRES = ("numpy", "no-such-package-of-ptq")  # type: ignore[attr-defined]
    python, why = peers.environment("none", found, tmp_path)
    assert why is not None
    assert why.startswith("not installed: ERROR: No matching distribution found for no-such-package-of-ptq")
    seen = subprocess.run(
        [python, "-c", "import numpy; print(numpy.__version__)"], capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == np.__version__
