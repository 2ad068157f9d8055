"""ptq bars, which pre-commit runs: red for every kind of broken bars, green for sound ones, and no model is run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ptq.cli import commands

ROOT = Path(__file__).parents[2]
BARS = """
["mine-*"]
floor = 0.9
why = "the product needs it"

["mine-onnxruntime-fp32"]
floor = 0.95
why = "what it was trained to"
"""
REFERENCE = {
    "schema": "ptq-reference/1",
    "environments": {"e": {"python": "3.11"}},
    "cases": {
        "mine-onnxruntime-int8-minmax": {
            "metric": "top1", "value": 0.9375, "n": 16, "fp32_value": 1.0, "evaluation": "d", "outcomes": "f/8=",
            "environment": "e",
        }
    },
}  # fmt: skip


def check(folder: Path, *names: str) -> tuple[int, str]:
    done = CliRunner().invoke(commands(), ["bars", *(str(folder / name) for name in names)], standalone_mode=False)
    assert done.exception is None, done.exception
    return int(done.return_value), done.output


def written(folder: Path, bars: str = BARS, reference: Any = REFERENCE) -> Path:
    (folder / "bars.toml").write_text(bars)
    (folder / "reference.json").write_text(reference if isinstance(reference, str) else json.dumps(reference))
    return folder


def test_sound_bars_are_green(tmp_path: Path) -> None:
    written(tmp_path)
    code, said = check(tmp_path, "bars.toml", "reference.json")
    assert (code, said.endswith("bars.toml: 2 bars, sound\n")) == (0, True)
    assert check(ROOT / "tests", "bars.toml")[0] == 0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda text: text.replace("0.9\n", "0.9.1\n"), "cannot be read as TOML"),
        (lambda text: text + text, "cannot be read as TOML"),  # a pattern twice
        (lambda text: text.replace("floor", "flor"), "unknown key 'flor': was 'floor' meant?"),
        (lambda text: text.replace("0.9\n", '"0.9"\n'), "floor='0.9', but should be a number"),
        (lambda text: text + "min_agreement = 1.5\n", "min_agreement=1.5, but should be a number in 0..1"),
        (lambda text: text.replace('why = "the', '# why = "the'), "has no why"),
        (lambda text: text.replace("floor = 0.95", "min_speedup = 1.1"), "else every accuracy passes"),
        (lambda text: text + 'expected_failure = ["acuracy"]\n', "expected_failure=['acuracy'], but should be"),
        (lambda text: text.replace('"mine-*"', '"Mine *"'), "can match no case"),
        (lambda text: text.replace('"mine-*"', '"yours-*"'), "no bar for case mine-onnxruntime-int8-minmax"),
        (lambda text: text + '["*-minmax"]\nfloor=0\nwhy="x"\n["mine-on*"]\nfloor=0\nwhy="y"\n', "be more specific"),
        (lambda text: text.replace("0.9\n", "0.99\n"), "floor=0.99, but the reference of mine-onnxruntime-int8-min"),
        (lambda text: text.replace("0.9\n", "0.9\nceiling = 0.5\n"), "floor=0.9 is above ceiling=0.5"),
        (lambda text: text + "min_speedup = 2\n", "min_speedup=2, but governs float cases alone"),
    ],
)  # fmt: skip
def test_broken_bars_are_red(change: Callable[[str], str], line: str, tmp_path: Path) -> None:
    written(tmp_path, change(BARS))
    code, said = check(tmp_path, "bars.toml")
    assert code == 1
    assert line in said
    assert all(each.startswith(str(tmp_path)) for each in said.splitlines())


def edited(**fields: Any) -> dict[str, Any]:
    (name, case), *_ = REFERENCE["cases"].items()  # type: ignore[attr-defined]
    return {**REFERENCE, "cases": {name: {**case, **fields}}}


@pytest.mark.parametrize(
    ("reference", "line"),
    [
        ("{", "cannot be read as JSON"),
        ({**REFERENCE, "schema": "x"}, "schema='x', but should be"),
        (edited(outcomes="f/"), "a case is not as --ptq-update writes it"),
        (edited(outcomes="f/9/"), "outcomes hold 24 bits, but should hold 16"),
        (edited(value=0.95), "value=0.95, but its outcomes say 0.937500; remake it with --ptq-update"),
        (edited(environment="other"), "environment 'other' is none of the file's"),
        (edited(n=0, outcomes=None), "n=0, but should be at least 1"),
        ({**REFERENCE, "cases": {"Mine": edited()["cases"]["mine-onnxruntime-int8-minmax"]}}, "is no id of a case"),
    ],
)
def test_broken_references_are_red(reference: Any, line: str, tmp_path: Path) -> None:
    written(tmp_path, reference=reference)
    code, said = check(tmp_path, "reference.json")
    assert code == 1
    assert line in said


def test_no_bars_at_all_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(commands(), ["bars"], standalone_mode=False)
    assert str(done.exception).startswith("no bars: tests/bars.toml")
    written(tmp_path)
    assert check(Path())[0] == 0
    assert check(tmp_path / "absent", "bars.toml")[0] == 1


def test_the_hook_runs_the_command_and_no_framework(tmp_path: Path) -> None:
    hook = (ROOT / ".pre-commit-hooks.yaml").read_text()
    entry = re.search(r"entry: ptq (\w+)", hook)
    files = re.search(r"files: (.+)", hook)
    assert entry
    assert files
    for name, wanted in (("tests/bars.toml", True), ("reference.json", True), ("handlebars.toml", False)):
        assert bool(re.search(files[1], name)) == wanted
    written(tmp_path)
    code = (
        "import sys\nfrom ptq.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(sorted({'onnxruntime', 'torch', 'tensorflow', 'pytest'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, entry[1], str(tmp_path / "bars.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr
    (tmp_path / "bars.toml").write_text("floor = 1")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pre-commit") is None, reason="pre-commit is not installed")
def test_pre_commit_itself_accepts_the_hook() -> None:
    subprocess.run(["pre-commit", "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml")], check=True)
