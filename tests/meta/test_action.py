"""The Action: its script is run as the workflow runs it, from a clone to the summary, and action.yml says no more."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from foreign import images, write_repository

ROOT = Path(__file__).parents[2]
ACTION = (ROOT / "action.yml").read_text()
SCRIPT = (ROOT / ".ci" / "action").read_text()

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


class Job:
    """A job of a workflow: a clone of ptq, somebody's repository, and the files GitHub names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mine = folder / "mine"
        self.mine.mkdir()
        write_repository(self.mine)
        (self.mine / "test_mine.py").unlink()  # the shipped suite is what runs
        listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / "clone" / name)
        self.summary, self.output = folder / "summary.md", folder / "output"

    def run(self, **inputs: str) -> int:
        """The exit code of the step that judges; pip takes ptq from the clone, and asks no index."""
        target = self.folder / "installed"
        given = {
            "SUITE": "--pyargs ptq.suite -m 'accuracy or structure' -p no:cacheprovider", "EXTRAS": "suite",
            "PIP": f"--no-deps --no-build-isolation --upgrade --target {target}", "WORK": str(self.folder / "work"),
            "OPTIONS": '-k "u8s8 or fp32"', **inputs,
        }  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PTQ_", "PYTEST"))}
        environment |= {f"PTQ_ACTION_{name}": value for name, value in given.items()}
        environment |= {
            "PYTHONPATH": str(target), "GITHUB_STEP_SUMMARY": str(self.summary), "GITHUB_OUTPUT": str(self.output),
            "PATH": f"{target / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1", "GITHUB_SHA": f"{given.get('SHA', 'a'):0<40}",
        }  # fmt: skip
        script = ["bash", str(self.folder / "clone" / ".ci" / "action")]
        done = subprocess.run(script, cwd=self.mine, env=environment, capture_output=True, text=True, check=False)
        self.said = done.stdout + done.stderr
        return done.returncode

    def spoil_labels(self) -> None:
        """45 of the images that are judged get a wrong label."""
        _, y = images(390)
        y[100:145] = (y[100:145] + 1) % 3
        np.save(self.mine / "labels.npy", y)

    def outputs(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.output.read_text().splitlines())


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a working copy")
    return Job(tmp_path_factory.mktemp("job"))


def test_from_a_clone_to_the_summary_and_what_changed(job: Job) -> None:
    assert job.run(REQUIRE="mine onnxruntime", HISTORY="runs") == 0, job.said
    out = job.folder / "work" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["history.html", "ptq.html", "ptq.json"]
    report = json.loads((out / "ptq.json").read_text())
    assert {each["verdict"] for each in report["results"]} == {"pass"}
    assert len(report["structure"]) == len(report["results"]) == 3
    assert job.summary.read_text().startswith("## ptq\n\n- ship mine-onnxruntime-u8s8-minmax")
    assert job.outputs() == {"report": str(out / "ptq.json"), "page": str(out / "ptq.html"), "changes": ""}
    installed = subprocess.run(
        [sys.executable, "-c", "import ptq; print(ptq.__file__)"], cwd=job.folder,
        env={**os.environ, "PYTHONPATH": str(job.folder / "installed")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert installed.stdout.startswith(str(job.folder))  # it was the clone's that judged

    # on a branch the labels of 45 images went wrong, so the bar does not hold any more and the base stays
    job.spoil_labels()
    base = (job.folder / "work" / "base" / "ptq.json").read_bytes()
    assert job.run() == 1, job.said
    changes = Path(job.outputs()["changes"])
    assert changes.read_text().startswith("### ptq: 3 worse, 0 the same\n\n**worse**\n\n- mine-onnxruntime-fp32: ")
    assert changes.read_text() in job.summary.read_text()
    assert (job.folder / "work" / "base" / "ptq.json").read_bytes() == base


def test_what_is_required_and_absent_is_red(job: Job) -> None:
    assert job.run(REQUIRE="nothing_of_this_name") == 1
    assert "--ptq-require nothing_of_this_name: no such workload or backend" in job.said


def test_a_regression_in_the_history_is_red_though_the_suite_is_green(job: Job) -> None:
    job.spoil_labels()
    (job.mine / "bars.toml").write_text('["mine-*"]\nfloor = 0.1\nwhy = "low enough for both"\n')
    shutil.rmtree(job.mine / "runs", ignore_errors=True)
    assert job.run(HISTORY="runs") == 0, job.said
    path = job.mine / "runs" / "history.jsonl"
    first = json.loads(path.read_text())
    for case in first["cases"].values():  # as if all had been right before, on the same images
        bits = np.packbits(np.ones(case["n"], bool))
        case.update(value=1.0, outcomes=base64.b64encode(bits.tobytes()).decode())
    path.write_text(json.dumps(first) + "\n")
    assert job.run(HISTORY="runs") == 1, job.said
    assert "worse: mine-onnxruntime-fp32: top1 1.0000 -> " in job.said


def test_action_yml_passes_every_input_and_the_script_reads_no_other() -> None:
    inputs = re.findall(r"^  (\w+):$", ACTION.split("outputs:")[0].split("inputs:")[1], flags=re.MULTILINE)
    passed = dict(re.findall(r"PTQ_ACTION_(\w+): \$\{\{ inputs\.(\w+) \}\}", ACTION))
    assert sorted(passed.values()) == sorted(inputs)
    assert all(name.lower() == value for name, value in passed.items())
    read = set(re.findall(r"PTQ_ACTION_(\w+)", SCRIPT)) - {""}
    assert read - {"WORK", "PIP"} == set(passed)
    assert set(re.findall(r"steps\.run\.outputs\.(\w+)", ACTION)) == set(re.findall(r"(?:'|\\n)(\w+)=%s", SCRIPT))
    assert 'run: bash "$GITHUB_ACTION_PATH/.ci/action"' in ACTION
    assert ACTION.count("run: ") == 1  # its steps are the script, which a test runs
    if (yaml := pytest.importorskip("yaml", reason="PyYAML is not installed")) is not None:
        assert yaml.safe_load(ACTION)["runs"]["using"] == "composite"
