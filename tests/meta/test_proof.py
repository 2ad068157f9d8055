"""What a run must prove: each way to be green that was not, shown red or told in a line; through the plugin."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from foreign import BARS, CONFTEST, STRUCTURE, SUITE, run, write_model
from onnx import TensorProto, helper

import ptq

ONE = "mine-onnxruntime-uint8-minmax"
FLOAT = "mine-onnxruntime-fp32"
PAIR = ("-k", "fp32 or (uint8-minmax and not channel)")
RED = pytest.ExitCode.TESTS_FAILED


def bars(repository: pytest.Pytester, text: str) -> None:
    (repository.path / "bars.toml").write_text('["mine-*"]\nwhy = "a test"\n' + text)


def test_a_key_that_only_float_cases_have_is_red(repository: pytest.Pytester) -> None:
    (repository.path / "bars.toml").write_text(f'{BARS}["{FLOAT}"]\nfloor = 0.9\nwhy = "x"\nmin_speedup = 1000\n')
    result = run(repository, "-k", "fp32")
    assert result.ret == RED
    result.stdout.fnmatch_lines([f'ptq: *"{FLOAT}"? min_speedup=1000, but governs float cases alone*'])


def test_a_bar_that_others_take_everything_from_is_red(repository: pytest.Pytester) -> None:
    (repository.path / "bars.toml").write_text(f'{BARS}["mine-onnxruntime-*"]\nfloor = 0.9\nwhy = "x"\n')
    result = run(repository, "-k", "fp32")
    assert result.ret == RED
    result.stdout.fnmatch_lines(["ptq: *pattern 'mine-?' governs none of the 7 cases it matches*"])


def test_a_key_of_a_gate_that_is_not_selected_is_told(repository: pytest.Pytester) -> None:
    bars(repository, "floor = 0.9\nmin_speedup = 1000\nmin_integer_share = 0.5\n")
    result = run(repository, *PAIR)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["ptq: min_integer_share in bars.toml: not held here, no test of -m structure ran", "ptq: min_speedup in *"]
    )


def test_a_structure_run_without_any_bar_is_red(repository: pytest.Pytester) -> None:
    (repository.path / "test_mine.py").write_text(SUITE + STRUCTURE)
    result = run(repository, "-m", "structure", *PAIR)
    result.assert_outcomes(passed=2, deselected=12)
    assert result.ret == RED
    result.stdout.fnmatch_lines(["ptq: structure: none of 2 measurements has a bar*: set min_integer_share"])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("pass", "*: takes judge and never asks it, so it proves nothing"),
        ("try:\n        judge(case)\n    except BaseException:\n        pass", "ptq: *passed, but mine-* is red: the*"),
        (
            "try:\n        judge(case)\n    except BaseException:\n        pytest.skip('no')",
            "ptq: *skipped, but mine-*",
        ),
    ],
)
def test_a_test_that_does_not_let_judge_fail_it_is_red(repository: pytest.Pytester, body: str, told: str) -> None:
    bars(repository, "min_sqnr_db = 300\n")
    (repository.path / "test_mine.py").write_text(SUITE.replace("judge(case)", body, 1))
    result = run(repository, "-k", "uint8-minmax and not channel")
    assert result.ret == RED
    result.stdout.fnmatch_lines([told])


def test_a_swallowed_error_is_red(repository: pytest.Pytester) -> None:
    """There is no verdict at all: the case has no bar."""
    (repository.path / "bars.toml").write_text(f'["{FLOAT}"]\nfloor = 0.1\nwhy = "x"\n')
    body = "try:\n        judge(case)\n    except BaseException:\n        pass"
    (repository.path / "test_mine.py").write_text(SUITE.replace("judge(case)", body, 1))
    result = run(repository, *PAIR)
    assert result.ret == RED
    result.stdout.fnmatch_lines([f"ptq: *{ONE}?: passed, but judge came to no verdict*"])


def test_a_required_workload_of_float_cases_alone_is_red(repository: pytest.Pytester) -> None:
    result = run(repository, "-k", "fp32", "--ptq-require", "mine")
    result.assert_outcomes(passed=1, deselected=6)
    assert result.ret == RED
    assert run(repository, *PAIR, "--ptq-require", "mine").ret == 0


def test_min_cases_are_counted_once(repository: pytest.Pytester) -> None:
    (repository.path / "test_mine.py").write_text(SUITE + STRUCTURE)
    result = run(repository, *PAIR, "--ptq-min-cases", "3")
    result.assert_outcomes(passed=4, deselected=10)
    assert result.ret == RED
    assert run(repository, *PAIR, "--ptq-min-cases", "2").ret == 0


def evaluate(repository: pytest.Pytester, x: np.ndarray | None = None, y: np.ndarray | None = None) -> None:
    """Other evaluation images or labels for the foreign repository; calibration stays."""
    for name, values in (("images", x), ("labels", y)):
        if values is not None:
            path = repository.path / f"{name}.npy"
            np.save(path, np.concatenate([np.load(path)[:90], values]).astype(np.load(path).dtype))


@pytest.mark.parametrize("what", ["one image", "one class", "rolled", "constant", "leak", "moved leak"])
def test_a_float_model_or_a_set_that_can_tell_nothing_is_red_and_never_stored(
    repository: pytest.Pytester, what: str
) -> None:
    x, y = np.load(repository.path / "images.npy")[90:], np.load(repository.path / "labels.npy")[90:]
    if what == "one image":
        evaluate(repository, np.repeat(x[:1], 300, axis=0), np.repeat(y[:1], 300))
    elif what == "one class":
        evaluate(repository, x[y == 1], y[y == 1])
    elif what == "rolled":
        evaluate(repository, y=np.roll(y, 1))
    elif "leak" in what:
        x[7] = np.load(repository.path / "images.npy")[3] + (0.001 if what == "moved leak" else 0)
        evaluate(repository, x)
    else:
        write_model(repository.path / "model.onnx", favour=1e6)
    bars(repository, 'max_drop = 100\nexpected_failure = ["accuracy"]\n')
    result = run(repository, *PAIR)
    result.assert_outcomes(failed=2, deselected=5)
    said = "1 of 300 evaluation * unchecked={'disjoint': *" if "leak" in what else "*"
    result.stdout.fnmatch_lines([f"{ONE}: the float model is no reference: evaluation: {said}"])
    result = run(repository, *PAIR, "--ptq-update")
    result.assert_outcomes(failed=2, deselected=5)
    assert json.loads((repository.path / "reference.json").read_text())["cases"] == {}


def test_a_leak_that_is_meant_is_not_red(repository: pytest.Pytester) -> None:
    x = np.load("images.npy")
    evaluate(repository, np.concatenate([x[:1], x[91:]]))
    assert run(repository, *PAIR).ret == RED
    conftest = CONFTEST.replace("contract, include", "contract, unchecked={'disjoint': 'there is one set'}, include")
    (repository.path / "conftest.py").write_text(conftest)
    assert run(repository, *PAIR).ret == 0


def test_a_reference_made_on_other_samples_is_told_and_red_when_strict(repository: pytest.Pytester) -> None:
    assert run(repository, *PAIR, "--ptq-update").ret == 0
    conftest = CONFTEST.replace("x[90:], y[90:]", "x[90:300], y[90:300]")
    (repository.path / "conftest.py").write_text(conftest)
    result = run(repository, *PAIR)
    assert result.ret == 0
    line = f"ptq: 2 references were made on other samples, the first: {FLOAT} on 300: only a large loss shows*"
    result.stdout.fnmatch_lines([line])
    result = run(repository, *PAIR, "--ptq-strict")
    assert result.ret == RED
    result.stdout.fnmatch_lines([line])


def test_an_expected_failure_that_no_longer_fails_reaches_the_terminal(repository: pytest.Pytester) -> None:
    bars(repository, 'floor = 0.9\nexpected_failure = ["accuracy"]\n')
    result = run(repository, *PAIR)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [f"ptq: expected_failure of 'mine-?': accuracy no longer fails for 1 of 1 cases, the first: {ONE}"]
    )


ARTIFACT = """artifacts={"theirs": ptq.Artifact("onnxruntime", "int8", "model.onnx")},
                         include=lambda case: case.is_float and case.backend == "onnxruntime" or"""


def test_a_float_file_declared_int8_is_red(repository: pytest.Pytester) -> None:
    conftest = CONFTEST.replace("include=lambda case:", ARTIFACT)
    (repository.path / "conftest.py").write_text(conftest)
    result = run(repository, "-k", "fp32 or theirs")
    result.assert_outcomes(passed=1, failed=1, deselected=6)
    result.stdout.fnmatch_lines(["mine-onnxruntime-int8-theirs: nothing of it is quantized, but should be int8*"])


def test_a_model_with_nothing_to_quantize_is_red(repository: pytest.Pytester) -> None:
    """It takes three pixels out, one a class."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Slice", ["flat", "starts", "ends", "axes", "steps"], ["p"]),
    ]
    held = [
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("starts", 8), ("ends", 48), ("axes", 1), ("steps", 16))
    ]
    graph = helper.make_graph(
        nodes,
        "pixels",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 8, 1])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 3])],
        held,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, repository.path / "model.onnx")
    bars(repository, "floor = 0.5\n")
    result = run(repository, *PAIR)
    assert result.ret == RED
    result.stdout.fnmatch_lines([f"{ONE}: *nothing of it * quantized, but **"])


def test_an_expected_failure_that_collapses_is_told(repository: pytest.Pytester) -> None:
    write_model(repository.path / "other.onnx", scale=-1.0)
    x = np.load(repository.path / "images.npy")[:90]
    ptq.quantize(
        repository.path / "other.onnx", calibration=x, dtype="uint8", method="minmax",
        out=repository.path / "made.onnx",
    )  # fmt: skip
    made = ARTIFACT.replace("int8", "uint8").replace("model.onnx", "made.onnx")
    (repository.path / "conftest.py").write_text(CONFTEST.replace("include=lambda case:", made))
    bars(repository, 'floor = 0.9\nexpected_failure = ["accuracy"]\n')
    result = run(repository, "-k", "theirs")
    result.assert_outcomes(xfailed=1, deselected=7)
    assert result.ret == 0
    name = "mine-onnxruntime-uint8-theirs"
    result.stdout.fnmatch_lines([f"ptq: 1 expected failures are no better than chance, the first: {name}"])


@pytest.mark.parametrize("option", ["--ptq-json", "--ptq-html"])
def test_a_report_that_cannot_be_written_is_red_after_the_verdicts(repository: pytest.Pytester, option: str) -> None:
    (repository.path / "folder").mkdir()
    result = run(repository, *PAIR, option, "folder")
    result.assert_outcomes(passed=2, deselected=5)
    assert result.ret == RED
    result.stdout.fnmatch_lines(["onnxruntime-* *pass*", "ptq: *folder*"])


def test_a_folder_of_data_with_nothing_in_it_is_red_and_told_once(repository: pytest.Pytester) -> None:
    (repository.path / "empty").mkdir()
    (repository.path / "test_more.py").write_text(SUITE)
    result = run(repository, "--ptq-data=empty")
    assert result.ret != 0
    assert result.stdout.str().count("nothing is in it, but should be") == 1


def test_two_files_of_bars_are_red(repository: pytest.Pytester) -> None:
    (repository.path / "tests").mkdir()
    (repository.path / "tests/bars.toml").write_text(BARS)
    result = run(repository)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["two files of bars, *"])


def test_an_update_from_the_environment_is_refused_under_ci(
    repository: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--ptq-update")
    monkeypatch.setenv("CI", "true")
    result = repository.runpytest_subprocess(*PAIR)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--ptq-update comes from PYTEST_ADDOPTS*"])
