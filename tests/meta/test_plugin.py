"""The plugin, as a foreign repository uses it; every way to be silently green turns the run red."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign import BARS, CONFTEST, SUITE, run, write_model

ONE = "mine-onnxruntime-u8s8-minmax"


def test_a_foreign_model_is_judged_in_15_lines(repository: pytest.Pytester) -> None:
    lines = [line for line in (CONFTEST + BARS + SUITE).splitlines() if line.strip()]
    assert len(lines) <= 15
    result = run(repository, "-m", "accuracy", "--ptq-json", "out.json")
    result.assert_outcomes(passed=7)
    report = json.loads((repository.path / "out.json").read_text())
    assert report["schema"] == "ptq/1"
    by_id = {each["id"]: each for each in report["results"]}
    assert len(by_id) == 7
    float_case, one = by_id["mine-onnxruntime-fp32"], by_id[ONE]
    assert (float_case["dtype"], float_case["drop"], float_case["agreement"]) == ("fp32", 0.0, 1.0)
    assert one["verdict"] == "pass"
    assert one["n"] == 300
    assert one["value"] == one["correct"] / 300 > 0.9
    assert one["calibration"]["n"] == 90
    assert one["size_bytes"] > 0
    assert set(one["per_class"]) == {"0", "1", "2"}
    result.stdout.fnmatch_lines(
        [
            "mine: n 300, fp32 *",
            "case *top1 *drop pp*verdict*",
            f"onnxruntime-* {one['value']:.4f} *pass*",
            "ship mine-*",
        ]
    )


def test_a_case_under_its_bar_fails_in_one_line(repository: pytest.Pytester) -> None:
    (repository.path / "bars.toml").write_text(
        '["mine-*"]\nfloor = 0.1\nwhy = "x"\n[\'' + ONE + '\']\nfloor = 1.0\nmax_drop = 0.0\nwhy = "y"\n'
    )
    x, y = np.load(repository.path / "images.npy"), np.load(repository.path / "labels.npy")
    y[95] = (y[95] + 1) % 3
    np.save(repository.path / "labels.npy", y)
    result = run(repository, "-k", "minmax and u8s8 and not channel")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"{ONE}: top1 0.9967 < floor 1.0000 (fp32 0.9967, drop 0.00 pp, n=300)"])
    assert len(x) == 390


def test_the_marker_tells_int8_from_uint8(repository: pytest.Pytester) -> None:
    run(repository, "-m", "ptq(dtype='int8')").assert_outcomes(passed=2, deselected=5)
    run(repository, "-m", "ptq(method='minmax', granularity='channel')").assert_outcomes(passed=3, deselected=4)


def test_two_workers_give_the_same_report(repository: pytest.Pytester) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    run(repository, "--ptq-json", "one.json", "--ptq-no-cache").assert_outcomes(passed=7)
    run(repository, "--ptq-json", "two.json", "--ptq-no-cache", "-n", "2").assert_outcomes(passed=7)
    one, two = (json.loads((repository.path / name).read_text())["results"] for name in ("one.json", "two.json"))
    for each in (*one, *two):
        del each["seconds"]
    assert one == two


def test_a_second_run_quantizes_nothing(repository: pytest.Pytester, store_root: Path) -> None:
    run(repository, "--ptq-json", "one.json").assert_outcomes(passed=7)
    before = {path: path.stat().st_mtime_ns for path in store_root.rglob("*") if path.suffix in {".onnx", ".npz"}}
    assert before
    run(repository, "--ptq-json", "two.json").assert_outcomes(passed=7)
    after = {path: path.stat().st_mtime_ns for path in store_root.rglob("*") if path.suffix in {".onnx", ".npz"}}
    assert before == after
    assert (repository.path / "one.json").read_text() == (repository.path / "two.json").read_text()


def test_no_cache_leaves_the_cache_alone(repository: pytest.Pytester, store_root: Path) -> None:
    run(repository, "--ptq-no-cache", "-k", "fp32").assert_outcomes(passed=1, deselected=6)
    assert not store_root.exists()


NO_DATA = CONFTEST.replace('"model.onnx"', "absent") + '\ndef absent():\n    raise ptq.NoData("no model: fetch it")\n'


def test_absent_data_is_skipped_with_its_reason_and_the_run_is_red(repository: pytest.Pytester) -> None:
    (repository.path / "conftest.py").write_text(NO_DATA)
    result = run(repository, "-rs")
    result.assert_outcomes(skipped=7)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["7 cases of mine no data: *", "ptq: no case was judged: all 7 *", "*no data: no model: fetch it*"]
    )


def test_required_data_that_is_absent_fails_each_case(repository: pytest.Pytester) -> None:
    (repository.path / "conftest.py").write_text(NO_DATA)
    result = run(repository, "--ptq-require", "mine")
    result.assert_outcomes(failed=7)
    result.stdout.fnmatch_lines(["*no model: fetch it (--ptq-require mine)"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--ptq-require", "yours"), "ptq: --ptq-require yours: no such workload or backend*"),
        (("--ptq-min-cases", "8"), "ptq: --ptq-min-cases 8: only 7 cases were judged*"),
        (("--ptq-require", "mine", "-k", "nothing_is_called_so"), "ptq: --ptq-require mine: nothing of it was judged*"),
    ],
)
def test_what_was_demanded_and_did_not_happen_is_red(
    repository: pytest.Pytester, arguments: tuple[str, ...], line: str
) -> None:
    result = run(repository, *arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([line])


def test_an_orphaned_bar_is_red(repository: pytest.Pytester) -> None:
    (repository.path / "bars.toml").write_text(
        BARS + '["mine-onnxruntime-u8s8-minmx*"]\nfloor = 0.1\nwhy = "renamed"\n'
    )
    result = run(repository)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ptq: *'mine-onnxruntime-u8s8-minmx?' matches none*"])


def test_data_far_away_named_with_a_space_does_not_hide_the_bars(
    repository: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """pytest takes such a DIR for a test path when it looks for its root; the bars are found all the same."""
    far = tmp_path_factory.mktemp("far")
    (far / "data.npy").touch()
    result = repository.runpytest_subprocess("-m", "accuracy", "--ptq-data", str(far), "-k", "fp32")
    result.assert_outcomes(passed=1, deselected=6)


def test_the_interpreter_of_modelopt_reaches_its_backend_and_no_further(
    repository: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PTQ_MODELOPT_PYTHON", raising=False)
    repository.makepyfile(
        test_sees="""
        from ptq.backends.modelopt import BACKENDS

        def test_sees():
            assert "absent/python" in BACKENDS[0].missing()
        """
    )
    run(repository, "test_sees.py", "--ptq-modelopt-python", "absent/python").assert_outcomes(passed=1)
    run(repository, "test_sees.py").assert_outcomes(failed=1)


def test_a_missing_bar_is_red(repository: pytest.Pytester) -> None:
    (repository.path / "bars.toml").write_text('["mine-onnxruntime-fp32"]\nfloor = 0.1\nwhy = "x"\n')
    result = run(repository)
    result.assert_outcomes(passed=1, failed=6)
    result.stdout.fnmatch_lines([f"{ONE}: *no bar for case {ONE}*"])


def test_no_case_collected_is_red(repository: pytest.Pytester) -> None:
    assert run(repository, "-m", "accuracy", "-k", "renamed").ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda path: (path / "bars.toml").unlink(), "*no bars: *bars.toml*--ptq-bars*"),
        (lambda path: (path / "conftest.py").write_text(""), "*no workload: *pytest_ptq_workloads*"),
        (lambda path: (path / "bars.toml").write_text("floor = "), "*bars.toml*"),
    ],
)
def test_a_repository_that_declares_nothing_is_told_so(repository: pytest.Pytester, change: object, line: str) -> None:
    change(repository.path)  # type: ignore[operator]
    result = run(repository)
    assert result.ret != 0
    result.stdout.fnmatch_lines([line])


def test_images_that_break_the_contract_are_named(repository: pytest.Pytester) -> None:
    x = np.load(repository.path / "images.npy")
    x[200, 1, 2, 0] = 17
    np.save(repository.path / "images.npy", x)
    result = run(repository, "-k", "fp32")
    result.assert_outcomes(failed=1, deselected=6)
    result.stdout.fnmatch_lines(["mine-onnxruntime-fp32: *17.0, but should be in ?0, 16?*"])
    result.stdout.no_fnmatch_line("*During handling*")


def test_a_tightened_contract_is_no_stale_pass(repository: pytest.Pytester) -> None:
    run(repository, "-k", "fp32").assert_outcomes(passed=1, deselected=6)
    (repository.path / "conftest.py").write_text(CONFTEST.replace("high=16", "high=9"))
    result = run(repository, "-k", "fp32")
    result.assert_outcomes(failed=1, deselected=6)
    result.stdout.fnmatch_lines(["mine-onnxruntime-fp32: *but should be in ?0, 9?*"])


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"mine"', '"My Net"', "*workload='My Net' should be made of*"),
        ('case.backend == "onnxruntime"', "False", "mine: its include leaves no case*"),
        ("return [", "return 'abc' or [", "pytest_ptq_workloads returned str, but should return a list*"),
        ('"NHWC"', '"NHWCX"', "contract.layout='NHWCX', but should have 4 letters*"),
        ("low=0", "low=16", "contract.low=16, but should be below contract.high=16"),
        ("high=16", "high=16, dtype='flot32'", "contract.dtype='flot32', but should be numpy's name*"),
    ],
)
def test_a_declaration_that_cannot_be_is_one_line(repository: pytest.Pytester, old: str, new: str, line: str) -> None:
    (repository.path / "conftest.py").write_text(CONFTEST.replace(old, new))
    result = run(repository)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([line])
    result.stdout.no_fnmatch_line("E  *")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("ptq.ArraySamples(x[90:], y[90:])", "x[90:]", "*: samples are ndarray, but should be ptq.Samples*"),
        (
            "y[90:])",
            "np.eye(3)[y[90:]])",
            "*: targets are float64 of shape (300, 3), but top1 needs an integer*one-hot*",
        ),
        ("y[90:])", "y[90:], ('only',))", "*: label 2, but 1 class names: name every class*"),
        ('"model.onnx"', "lambda: 5", "*: its model is int, but should be a path*"),
    ],
)
def test_what_a_workload_returns_wrongly_is_one_line(
    repository: pytest.Pytester, old: str, new: str, line: str
) -> None:
    (repository.path / "conftest.py").write_text(CONFTEST.replace(old, new))
    result = run(repository, "-k", "fp32")
    result.assert_outcomes(failed=1, deselected=6)
    result.stdout.fnmatch_lines([line])
    result.stdout.no_fnmatch_line("E  *")


def test_one_workload_may_be_returned_without_a_list(repository: pytest.Pytester) -> None:
    (repository.path / "conftest.py").write_text(
        CONFTEST.replace("return [", "return (").replace('"minmax"))]', '"minmax")))')
    )
    run(repository, "-k", "fp32").assert_outcomes(passed=1, deselected=6)


def test_weights_beside_the_model_are_found(repository: pytest.Pytester) -> None:
    path = repository.path / "model.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    run(repository, "-k", "fp32 or u8s8").assert_outcomes(passed=3, deselected=4)


def test_a_contract_that_is_not_the_models_is_named(repository: pytest.Pytester) -> None:
    text = CONFTEST.replace("(None, 8, 8, 1)", "(None, 9, 8, 1)")
    (repository.path / "conftest.py").write_text(text)
    result = run(repository, "-k", "fp32")
    result.assert_outcomes(failed=1, deselected=6)
    result.stdout.fnmatch_lines(["*contract.shape=(None, 9, 8, 1), but should match model.onnx's input*"])


def test_a_changed_model_is_judged_anew(repository: pytest.Pytester) -> None:
    run(repository, "-k", "fp32", "--ptq-json", "one.json").assert_outcomes(passed=1, deselected=6)
    write_model(repository.path / "model.onnx", scale=-1.0)
    result = run(repository, "-k", "fp32", "--ptq-json", "two.json")
    result.assert_outcomes(failed=1, deselected=6)
