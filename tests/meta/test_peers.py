"""The table of the peers: what it is made of, and that a peer that fails is a row with the reason."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import pytest
from any_model import autoencoder
from some_report import row

from ptq.report.json import report

FOLDER = Path(__file__).parents[1] / "benchmarks"
RECIPES = [path for folder in ("recipes", "w4a8") for path in sorted((FOLDER / folder).glob("*.py"))]


@pytest.fixture(scope="module")
def peers() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("peers")
    for name in ("peers", "peers_table"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def peers_table(peers: ModuleType) -> ModuleType:
    return importlib.import_module("peers_table")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recipe_says_what_it_needs_and_loads_without_its_tool(path: Path, peers: ModuleType) -> None:
    found = peers.load(path)
    assert found.REQUIRES
    assert found.DTYPE in (("u8s4",) if path.parent.name == "w4a8" else ("u8s8", "int8"))
    assert found.documented.__doc__
    assert not hasattr(found, "best") or found.best.__doc__
    assert ":" in found.__doc__.splitlines()[0]


def test_the_table_has_what_was_measured_and_why_the_rest_was_not(peers_table: ModuleType) -> None:
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
    lines = peers_table.table("digits", rows, content, exact, {"tool_documented": {1: 0.5}}).splitlines()
    assert lines[2:6] == [
        "| Near, best (1.2, `u8s8`) | 378 | 0.9950 | 20.0 | 378 | 1.00 |  |  | 12 (8) | 640 |",
        "| Tool, documented (1.2, `u8s8`) | 371 | 0.9800 | 21.0 | 370 | 1.00 | 0.50 |  | 12 (8) | 640 |",
        "| Tool, best | | | | | | | | | ValueError: no such node |",
        "| Gone, best | | | | | | | | | not installed: no matching distribution |",
    ]
    assert lines[7].startswith("digits: FP32 380/400, on some (avx2). It has no VNNI")
    assert {line.count("|") for line in lines[:6]} == {11}


def test_a_bias_whose_axis_only_the_optimizer_mends_is_mended(peers_table: ModuleType, tmp_path: Path) -> None:
    model = autoencoder(tmp_path / "model.onnx")
    loaded = onnx.load(model)
    node = onnx.helper.make_node("DequantizeLinear", ["flat", "scale"], ["out"], axis=1)
    loaded.graph.node.append(node)
    loaded.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.int32), "flat"))
    onnx.save(loaded, model)
    assert onnx.load_from_string(peers_table.unoptimized(model)).graph.node[-1].attribute[0].i == 0


def test_files_of_the_same_nodes_and_shapes_are_raced_once(peers_table: ModuleType, tmp_path: Path) -> None:
    paths = [autoencoder(tmp_path / f"{name}.onnx") for name in ("one", "two")]
    changed = onnx.load(paths[1])
    values = onnx.numpy_helper.to_array(changed.graph.initializer[0])
    changed.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(2 * values, changed.graph.initializer[0].name))
    onnx.save(changed, paths[1])
    one, two = (peers_table.graph_of({"backend": "onnxruntime", "path": path}) for path in paths)
    assert one == two
    changed.graph.node.pop()
    onnx.save(changed, paths[1])
    assert peers_table.graph_of({"backend": "onnxruntime", "path": paths[1]}) != one
    assert peers_table.graph_of({"backend": "torch", "path": "a.pt"}) != peers_table.graph_of(
        {"backend": "torch", "path": "b.pt"}
    )


def test_a_recipe_that_fails_says_its_last_words_and_one_that_works_what_it_took(
    peers: ModuleType, tmp_path: Path
) -> None:
    model = autoencoder(tmp_path / "model.onnx")
    np.savez(tmp_path / "calibration.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    recipe = tmp_path / "tool.py"
    recipe.write_text(
        '"""Tool: a test."""\nREQUIRES = ("numpy",)\nDTYPE = "u8s8"\n'
        "def documented(model, inputs, out):\n    out.write_bytes(model.read_bytes() + bytes(len(inputs)))\n"
        "def best(model, inputs, out):\n    raise ValueError('no such node')\n"
    )
    rows = {name: peers.made(recipe, name, sys.executable, model, tmp_path) for name in peers.RECIPES}
    assert rows["best"]["failed"] == "ValueError: no such node"
    assert rows["documented"]["failed"] is None
    assert rows["documented"]["peer"] == "Tool, documented"
    assert rows["documented"]["mb"] > 1
    assert rows["documented"]["version"] == np.__version__
    assert (tmp_path / "tool_documented.onnx").is_file()
    assert [peers.is_made(row, recipe) for row in (rows["documented"], rows["best"], None)] == [True, False, False]
    recipe.write_text(recipe.read_text() + "# changed\n")
    assert not peers.is_made(rows["documented"], recipe)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("while True: pass", "over 1 s of the processor"),
        ("import time; time.sleep(60)", "not ended in 3 s"),
        ("import subprocess; subprocess.run(['sleep', '60'])", "not ended in 3 s"),
        ("import os; os.abort()", "ended by signal 6"),
    ],
)
def test_a_recipe_that_takes_too_long_or_dies_is_ended(body: str, why: str, peers: ModuleType, tmp_path: Path) -> None:
    np.savez(tmp_path / "calibration.npz", x=np.zeros(1, np.float32))
    recipe = tmp_path / "tool.py"
    recipe.write_text(f'"""Tool: a test."""\nREQUIRES = ("numpy",)\nDTYPE = "u8s8"\ndef best(*_):\n    {body}\n')
    start = time.perf_counter()
    assert peers.made(recipe, "best", sys.executable, tmp_path / "m.onnx", tmp_path, 1, 3.0)["failed"] == why
    assert time.perf_counter() - start < 30


def test_a_run_with_no_time_left_names_every_recipe_and_the_next_makes_what_is_missing(
    peers: ModuleType, peers_table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    for name, slow in (("a", '("documented", "best")'), ("b", "()")):
        body = f'"""{name}: a test."""\nREQUIRES = ("numpy",)\nDTYPE, SLOW = "u8s8", {slow}\n'
        recipes = "".join(f"def {each}(model, _, out):\n    out.write_bytes(b'')\n" for each in peers.RECIPES)
        (tmp_path / "recipes" / f"{name}.py").write_text(body + recipes)
    found = [each[:2] for each in peers.ordered(("one", "two"), sorted((tmp_path / "recipes").glob("*.py")))]
    assert [(name, path.stem) for name, path in found[::2]] == [("one", "b"), ("two", "b"), ("one", "a"), ("two", "a")]
    monkeypatch.setattr(peers, "HERE", tmp_path)
    for name in ("judged", "exactly", "raced"):
        monkeypatch.setattr(peers_table, name, lambda *_: {})
    monkeypatch.setattr(peers, "prepared", lambda name, data, folder: (folder / "m.onnx", folder / "m.onnx", None))
    monkeypatch.setattr(
        peers_table, "table", lambda name, rows, *_: "\n".join(f"{key} {rows[key]['failed']}" for key in rows)
    )
    command = ["peers.py", "--data", str(tmp_path), "--work", str(tmp_path / "work"), "--workload", "cifar10"]
    np.savez(tmp_path / "calibration.npz", x=np.zeros(1, np.float32))
    (tmp_path / "work" / "cifar10").mkdir(parents=True)
    (tmp_path / "calibration.npz").rename(tmp_path / "work" / "cifar10" / "calibration.npz")
    order = ["b_documented", "b_best", "a_documented", "a_best"]
    for minutes, why in (("0", "no time left in 0 minutes"), ("60", "None")):
        monkeypatch.setattr(sys, "argv", [*command, "--minutes", minutes])
        peers.main()
        assert (tmp_path / "work" / "peers.md").read_text().splitlines()[:4] == [f"{key} {why}" for key in order]
    monkeypatch.setattr(peers, "made", None)  # all are there
    peers.main()
    monkeypatch.setattr(peers, "made", lambda path, name, *_: peers.row(path, name, tmp_path, "not ended in 9 s"))
    monkeypatch.setattr(sys, "argv", [*command, "--peer", "b", "--minutes", "9"])
    peers.main()
    cut = "b_documented not ended in 9 s, what was left of 9 minutes"
    assert (tmp_path / "work" / "peers.md").read_text().splitlines()[0] == cut


def test_layers_that_read_one_tensor_get_a_copy_each_for_nncf(peers: ModuleType, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> forked (float[1, 2] x) => (float[1, 2] y)'
        "<float[2, 2] w = {1.0, 2.0, 3.0, 4.0}> { r = Relu(x) a = MatMul(r, w) b = MatMul(r, w) y = Add(a, b) }"
    )
    kept = onnx.ModelProto.FromString(model.SerializeToString())
    peers.load(FOLDER / "recipes" / "nncf.py").apart(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Relu", "Identity", "MatMul", "Identity", "MatMul", "Add"]
    feed = {"x": np.array([[1.0, -2.0]], np.float32)}
    had, has = (onnx.reference.ReferenceEvaluator(each).run(None, feed)[0] for each in (kept, model))
    np.testing.assert_array_equal(had, has)


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
