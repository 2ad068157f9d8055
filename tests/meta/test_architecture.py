"""The rules the code is laid out by, held by a test: who may import what, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ptq

PACKAGE = Path(ptq.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = sorted(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES)
LAYERS = (
    *(("errors", "files"), ("stamps",)),
    *(("cases",), ("data",), ("models",), ("metrics",), ("calibration",), ("quantization",)),
    *(("sensitivity",), ("backends",), ("engine",), ("latency",), ("checks",), ("diagnosis",), ("tuning",)),
    *(("gate",), ("report",)),
    *(("workloads",), ("api",), ("cli",), ("plugin",), ("suite", "conformance")),
)
"""The parts of the package, lowest first: a part imports only from those before it, and from itself."""
FRAMEWORKS = {
    "onnxruntime": ("backends/onnxruntime/", "models/", "calibration/"),
    "torch": ("backends/torch/",),
    "torchao": ("backends/torch/",),
    "onnx2torch": ("backends/torch/",),
    "tensorflow": ("backends/tflite/", "models/"),
    "keras": ("backends/tflite/", "models/"),
    "ai_edge_litert": ("backends/tflite/",),
    "modelopt": ("backends/modelopt",),
    "openvino": ("backends/openvino/",),
    "nncf": ("backends/openvino/",),
    "pytest": ("plugin/", "suite/", "conformance/"),
}


def nodes(path: Path) -> Iterator[ast.AST]:
    """Every node of a file that runs: what is for type checkers alone is left out."""
    queue: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while queue:
        node = queue.pop()
        yield node
        typing_only = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        queue.extend(node.orelse if typing_only and isinstance(node, ast.If) else ast.iter_child_nodes(node))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def part(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def rank(name: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_a_backends_own_file_imports_its_framework(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    for framework in {module.split(".")[0] for module in imports(path)} & set(FRAMEWORKS):
        assert name.startswith(FRAMEWORKS[framework]), f"{name} imports {framework}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_part_imports_only_from_those_below_it(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        return
    taken = {module.split(".")[1] for module in imports(path) if module.startswith("ptq.")}
    assert "ptq" not in imports(path) or own in ("suite", "conformance"), f"{path.name} imports ptq itself"
    above = {name for name in taken if name != own and rank(name) >= rank(own)}
    assert not above, f"{path.relative_to(PACKAGE)} imports {sorted(above)}, which lie above {own}"


def test_the_order_names_every_part() -> None:
    named = {name for layer in LAYERS for name in layer}
    assert {part(path) for path in FILES} - {"__init__"} <= named


def test_no_two_modules_import_each_other() -> None:
    """Circles inside a part, at import time, whether or not Python gets around them."""
    known = {module.removesuffix(".__init__"): path for module, path in zip(MODULES, sorted(FILES), strict=True)}
    graph = {name: {target for target in _at_import(path) if target in known} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name] - {name}):
                visit(target, (*trail, name))
            done.add(name)

    for name in known:
        visit(name, ())


def _at_import(path: Path) -> set[str]:
    known = {module.removesuffix(".__init__") for module in MODULES}
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ptq."):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            # of a package, its modules are taken: the package itself is not read from
            found |= inner if inner <= known else {node.module, *(inner & known)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_holds_one_noun(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_every_module_can_be_imported_alone() -> None:
    """Each in an interpreter of its own state: the modules of ptq are forgotten between two."""
    code = (
        "import importlib, sys\n"
        "kept = set(sys.modules)\n"
        "for name in sys.argv[1:]:\n"
        "    for loaded in [each for each in sys.modules if each == 'ptq' or each.startswith('ptq.')]:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    names = [name.removesuffix(".__init__") for name in MODULES if not name.endswith("__main__")]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_ptq_and_its_registries_imports_no_framework() -> None:
    code = (
        "import sys\n"
        "from ptq import *\n"
        "import ptq.gate.judge, ptq.cli\n"
        "from ptq.engine.registry import Registry\n"
        "found = Registry()\n"
        "[found.grid(name) for name in found.workloads], found.metrics\n"
        "ptq.cli.commands()\n"
        "names = {'onnxruntime', 'torch', 'tensorflow', 'pytest', 'sklearn', 'scipy', 'cv2', 'jinja2', 'matplotlib'}\n"
        "names |= {'openvino', 'nncf'}\n"
        "print(sorted(names & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
