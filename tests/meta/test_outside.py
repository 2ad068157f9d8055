"""A package from outside, installed by pip: found, conforming, judged, and judged anew when it changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import ptq

OUTSIDE = Path(__file__).parent / "outside"
BARS = """
["*"]
floor = 0.9
max_drop = 5.0
why = "the digits are far apart"
"""
ONLY = """
import ptq

def pytest_ptq_workloads(data):
    return [workload for workload in ptq.builtin_workloads(data) if workload.name == {name!r}]
"""


@dataclass
class Place:
    """A repository to run pytest in, with its own store and what is put before everything else on the path."""

    folder: Path
    path: list[Path] = field(default_factory=list)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PTQ_", "PYTEST_"))}
        environment |= {
            "PTQ_CACHE": str(self.folder / "cache"),
            "PYTHONPATH": os.pathsep.join(map(str, self.path)),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=self.folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def judge(self, *arguments: str) -> dict[str, dict[str, object]]:
        """What a run of the accuracy suite says of every case."""
        report = self.folder / "report.json"
        report.unlink(missing_ok=True)
        done = self.run("--pyargs", "ptq.suite", "-m", "accuracy", "--ptq-json", str(report), *arguments)
        assert report.is_file(), done.stdout + done.stderr
        return {result["id"]: {**result, "said": done.stdout} for result in json.loads(report.read_text())["results"]}

    def edit(self, path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip put the package from outside."""
    source, target = tmp_path_factory.mktemp("source") / "outside", tmp_path_factory.mktemp("site")
    shutil.copytree(OUTSIDE, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., Place]:
    def made(workload: str, *path: Path) -> Place:
        (tmp_path / "conftest.py").write_text(ONLY.format(name=workload))
        (tmp_path / "bars.toml").write_text(BARS)
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        return Place(tmp_path, list(path))

    return made


def test_it_is_found_and_conforms(site: Path, place: Callable[..., Place]) -> None:
    done = place("outside", site).run("--pyargs", "ptq.conformance", "-k", "outside")
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1] or "passed" in done.stdout.splitlines()[-1]
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 12, done.stdout


def test_its_method_and_its_metric_are_judged_anew_when_a_constant_changes(
    site: Path, place: Callable[..., Place], tmp_path: Path
) -> None:
    own = tmp_path / "site"
    shutil.copytree(site, own)
    here = place("outside", own)
    cut, whole = "outside-onnxruntime-uint8-outside_cut", "outside-onnxruntime-uint8-minmax"
    first = here.judge()
    assert {cut, whole, "outside-outside-u8s8-outside_round"} <= set(first)
    assert {first[cut]["verdict"], first[whole]["verdict"]} == {"pass"}, first[cut]["said"]
    here.edit(own / "ptq_outside" / "method.py", "SHARE = 0.98", "SHARE = 0.02")
    second = here.judge()
    assert second[cut]["verdict"] == "fail"
    assert second[cut]["red"]
    assert second[whole] | {"said": "", "seconds": ""} == first[whole] | {"said": "", "seconds": ""}
    here.edit(own / "ptq_outside" / "metric.py", "WORTH = 1.0", "WORTH = 0.5")
    third = [result for result in here.judge().values() if result["value"] is not None]
    assert len(third) >= 4
    assert {(result["verdict"], result["red"]) for result in third} == {("fail", True)}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of ptq that a test may change."""
    shutil.copytree(Path(ptq.__file__).parent, tmp_path / "copy" / "ptq", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"


GRID = ("-k", "uint8 and not channel and (minmax or percentile) and onnxruntime")


def made(results: dict[str, dict[str, object]]) -> str:
    (line,) = {
        line for result in results.values() for line in str(result["said"]).splitlines() if "ptq: store:" in line
    }
    return line


def test_what_makes_no_result_makes_nothing_anew(copied: Path, place: Callable[..., Place]) -> None:
    """A template, a style, a docstring, a comment: one byte of these used to void everything."""
    here = place("digits", copied)
    assert " 0 made" not in made(here.judge(*GRID))
    assert " 0 made" in made(here.judge(*GRID))
    templates = sorted((copied / "ptq" / "report" / "templates").glob("*"))
    assert templates
    for template in templates:
        template.write_text(template.read_text() + "\n")
    here.edit(copied / "ptq/calibration/statistics.py", '"""TensorStatistics:', '# a comment\n"""Statistics:')
    here.edit(copied / "ptq/quantization/quantizer.py", '"""Quantizer:', '"""The quantizer:')
    assert " 0 made" in made(here.judge(*GRID))


def test_a_changed_method_makes_its_own_cases_anew_and_no_other(copied: Path, place: Callable[..., Place]) -> None:
    here = place("digits", copied)
    here.judge(*GRID)
    path = copied / "ptq/quantization/methods/percentile.py"
    here.edit(path, "percent: float = 99.99", "percent: float = 99.0")
    line = made(here.judge(*GRID))
    assert "artifact 1" in line
    assert "statistics" not in line.split(" found")[0]
    assert "predictions 1" in line
