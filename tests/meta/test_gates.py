"""The gates of accuracy and structure, through the plugin: what must turn a run red does, and nothing else."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from xml.etree import ElementTree

import pytest
from foreign import BARS, CONFTEST, STRUCTURE, SUITE, run, write_model

ONE = "mine-onnxruntime-u8s8-minmax"
EXACT = "mine-onnxruntime-uint8-minmax"
"""Its kernels saturate on no CPU."""
FLOAT = "mine-onnxruntime-fp32"


def bars(repository: pytest.Pytester, text: str) -> None:
    (repository.path / "bars.toml").write_text('["mine-*"]\nwhy = "a test"\n' + text)


def reference(repository: pytest.Pytester) -> Path:
    return repository.path / "reference.json"


def test_worse_than_its_reference_is_red_above_its_floor(repository: pytest.Pytester) -> None:
    assert run(repository, "--ptq-update").ret == 0
    run(repository, "--ptq-strict").assert_outcomes(passed=7)
    write_model(repository.path / "model.onnx", favour=24)
    some = ("-k", "fp32 or uint8-minmax")
    result = run(repository, *some, "--ptq-json", "out.json")
    result.assert_outcomes(failed=3, deselected=4)
    line = "top1 0.9533 is significantly worse than its reference 1.0000 (14 images lost, 0 won, McNemar p=*, n=300)"
    result.stdout.fnmatch_lines([f"{FLOAT}: {line}", "onnxruntime-fp32 *pass, worse*"])
    result.stdout.no_fnmatch_line("*under*floor*")
    rows = json.loads((repository.path / "out.json").read_text())["results"]
    assert {(each["verdict"], each["red"], each["reference"]["worse"]) for each in rows} == {("pass", True, True)}
    assert run(repository, *some, "--ptq-update").ret == 0
    assert run(repository, *some).ret == 0


def test_an_expected_failure_is_not_red_by_its_reference_either(repository: pytest.Pytester) -> None:
    bars(repository, 'floor = 1.0\nmax_drop = 0.0\nexpected_failure = ["accuracy"]\n')
    write_model(repository.path / "model.onnx", favour=23)
    assert run(repository, "--ptq-update").ret == 0
    result = run(repository, "-rx")
    result.assert_outcomes(xfailed=7)
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"XFAIL *{FLOAT}*top1 0.9933 < floor 1.0000*expected: a test*"])
    write_model(repository.path / "model.onnx", favour=24.5)
    result = run(repository, "-k", "fp32", "--ptq-json", "out.json")
    result.assert_outcomes(xfailed=1, deselected=6)
    (row,) = json.loads((repository.path / "out.json").read_text())["results"]
    assert (row["verdict"], row["red"], row["reference"]["worse"]) == ("fail", False, True)
    bars(repository, "floor = 0.9\n")
    result = run(repository, "-k", "fp32")
    result.assert_outcomes(failed=1, deselected=6)
    result.stdout.fnmatch_lines([f"{FLOAT}: *is significantly worse than its*"])


def test_update_writes_the_same_bytes_with_any_number_of_workers(repository: pytest.Pytester) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    written = []
    for arguments in ((), (), ("-n", "2")):
        reference(repository).unlink(missing_ok=True)
        result = run(repository, "--ptq-update", *arguments)
        result.assert_outcomes(passed=7)
        result.stdout.fnmatch_lines(["ptq: wrote reference.json with 7 measured cases*"])
        written.append(reference(repository).read_bytes())
    assert len(set(written)) == 1
    run(repository, "--ptq-update").assert_outcomes(passed=7)
    assert reference(repository).read_bytes() == written[0]
    assert run(repository, "--ptq-strict").ret == 0


def test_update_fails_nothing_and_remakes_what_is_broken(repository: pytest.Pytester) -> None:
    bars(repository, "floor = 1.0\n")
    write_model(repository.path / "model.onnx", favour=24)
    reference(repository).write_text("{")
    result = run(repository, "-k", "fp32")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*reference.json: cannot be read as JSON*remake it with --ptq-update"])
    result = run(repository, "-k", "fp32", "--ptq-update")
    result.assert_outcomes(xfailed=1, deselected=6)
    assert result.ret == 0
    assert json.loads(reference(repository).read_text())["cases"][FLOAT]["value"] == pytest.approx(0.953333)
    assert run(repository, "-k", "fp32").ret == 1


def test_a_renamed_id_is_told_and_red_when_strict(repository: pytest.Pytester) -> None:
    result = run(repository, "--ptq-strict", "-k", "fp32")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"ptq: 1 judged cases have no reference, the first: {FLOAT}*"])
    assert run(repository, "--ptq-update").ret == 0
    (repository.path / "conftest.py").write_text(CONFTEST.replace('"mine"', '"mine.renamed"'))
    (repository.path / "bars.toml").write_text(BARS.replace("mine-*", "mine*"))
    result = run(repository)
    assert result.ret == 0
    orphans = f"ptq: 7 references have no case, the first: {FLOAT}*"
    result.stdout.fnmatch_lines(["ptq: 7 judged cases have no reference*", orphans])
    result = run(repository, "--ptq-strict")
    result.assert_outcomes(passed=7)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([orphans])


def test_a_case_that_cannot_be_told_is_red_with_confidence(repository: pytest.Pytester) -> None:
    write_model(repository.path / "model.onnx", favour=24)
    bars(repository, "max_drop = 1.0\n")
    result = run(repository, "-k", "uint8-minmax", "--ptq-json", "out.json")
    result.assert_outcomes(passed=2, deselected=5)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"ptq: every one of 2 verdicts is unresolved, the first: {EXACT}*"])
    rows = json.loads((repository.path / "out.json").read_text())["results"]
    assert {(each["verdict"], each["red"]) for each in rows} == {("unresolved", False)}
    bars(repository, "max_drop = 1.0\nconfidence = 0.95\n")
    result = run(repository, "-k", "uint8-minmax")
    result.assert_outcomes(failed=2, deselected=5)
    result.stdout.fnmatch_lines([f"{EXACT}: max_drop 1.00 pp is inside 95 % * images would resolve it *"])


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="int8 kernels differ off x86")
def test_int8_that_runs_in_float_is_red(repository: pytest.Pytester) -> None:
    write_model(repository.path / "model.onnx", conv=True)
    (repository.path / "test_mine.py").write_text(SUITE + STRUCTURE)
    bars(repository, "floor = 0.9\n")
    run(repository).assert_outcomes(passed=14)
    bars(repository, "floor = 0.9\nmin_integer_share = 1.0\n")
    result = run(repository, "--ptq-json", "out.json")
    result.assert_outcomes(passed=12, failed=2)
    result.stdout.fnmatch_lines(
        [
            "mine-onnxruntime-int8-minmax: integer share 0.25 < min_integer_share 1.00 (1 of 4 compute nodes in "
            "integer: 0 of 1 Add, 1 of 3 Conv; in float: first, second, sum; 9 stray Q/DQ; likely cause: int8 acti*"
        ]
    )
    structure = {each["id"]: each for each in json.loads((repository.path / "out.json").read_text())["structure"]}
    assert structure["mine-onnxruntime-int8-minmax"]["floating"] == {"Add": 1, "Conv": 2}
    assert structure["mine-onnxruntime-int8-minmax"]["red"]
    assert structure[ONE]["integer_share"] == 1.0
    bars(repository, 'floor = 0.9\nmin_integer_share = 1.0\nexpected_failure = ["structure"]\n')
    run(repository, "-k", "int8 and structure").assert_outcomes(passed=2, xfailed=2, deselected=10)


@pytest.mark.parametrize("mark", ["@pytest.mark.skip\n", "@pytest.mark.skipif(True, reason='not today')\n"])
def test_a_gate_that_others_skip_is_red(repository: pytest.Pytester, mark: str) -> None:
    (repository.path / "test_mine.py").write_text(SUITE.replace("@pytest", f"{mark}@pytest"))
    result = run(repository)
    result.assert_outcomes(skipped=7)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ptq: no case was judged: all 7 selected were not run*"])


def test_collecting_is_no_run(repository: pytest.Pytester) -> None:
    assert run(repository, "--collect-only", "--ptq-min-cases", "7").ret == 0


def test_every_report_of_a_run_says_the_same(repository: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = repository.path / "summary.md"
    summary.write_text("a step before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run(
        repository, "--ptq-json", "deep/out.json", "--ptq-html", "deep/out.html", "--junitxml", "junit.xml",
        "-o", "junit_family=xunit2",
    ).assert_outcomes(passed=7)  # fmt: skip
    rows = {each["id"]: each for each in json.loads((repository.path / "deep/out.json").read_text())["results"]}
    page = (repository.path / "deep/out.html").read_text()
    lines = summary.read_text().splitlines()
    assert lines[:2] == ["a step before", "## ptq"]
    junit = {
        str(test.get("name")): {str(each.get("name")): str(each.get("value")) for each in test.iter("property")}
        for test in ElementTree.parse(repository.path / "junit.xml").iter("testcase")
    }
    assert len(rows) == 7
    for name, each in rows.items():
        assert json.loads(junit[f"test_accuracy[{name}]"]["ptq"])["value"] == each["value"]
        assert f">{name.removeprefix('mine-')}<" in page
        assert any(line.startswith(f"| {name} | {each['value']:.4f} |") for line in lines)
