"""The rules the code is laid out by, held by a test: who may import what, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ptq

PACKAGE = Path(ptq.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = {
    "onnxruntime": ("backends/onnxruntime/", "models/"),
    "torch": ("backends/", "models/"),
    "torchao": ("backends/",),
    "onnx2torch": ("models/",),
    "tensorflow": ("backends/tflite", "models/"),
    "ai_edge_litert": ("backends/tflite",),
    "modelopt": ("backends/modelopt",),
    "pytest": ("plugin.py",),
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name.split(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_a_backends_own_file_imports_its_framework(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    for framework in imports(path) & set(FRAMEWORKS):
        assert name.startswith(FRAMEWORKS[framework]), f"{name} imports {framework}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_holds_one_noun(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_importing_ptq_and_its_registries_imports_no_framework() -> None:
    code = (
        "import sys, ptq, ptq.judge, ptq.cli\n"
        "from ptq.pipeline import cases_of\n"
        "[cases_of(each) for each in ptq.builtin_workloads(None)]\n"
        "ptq.cli.commands()\n"
        "print(sorted({'onnxruntime', 'torch', 'tensorflow', 'pytest', 'sklearn', 'scipy', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
