"""The gate of latency, through the plugin: it measures or refuses, and a slower artifact turns it red."""

from __future__ import annotations

import json
import re
import time

import pytest
from foreign import BARS, CONFTEST, LATENCY, STRUCTURE, SUITE, run, write_model

from ptq.backends.protocol import Predictor
from ptq.cases import Case
from ptq.data.batch import Batch
from ptq.engine.pipeline import Pipeline
from ptq.report.diff import diff
from ptq.report.findings import complaints

ONE = "mine-onnxruntime-u8s8-minmax"
BATCH1 = ("-m", "latency", "-k", f"{ONE}-batch1]")


@pytest.fixture
def timed(repository: pytest.Pytester) -> pytest.Pytester:
    """The foreign repository with every kind of test."""
    (repository.path / "test_mine.py").write_text(SUITE + STRUCTURE + LATENCY)
    return repository


def test_a_race_is_reported_and_kept_by_pytest_benchmark(timed: pytest.Pytester) -> None:
    result = run(timed, "-k", f"{ONE} and not channel", "--ptq-json", "out.json", "--benchmark-json", "bench.json")
    result.assert_outcomes(passed=4)
    report = json.loads((timed.path / "out.json").read_text())
    assert [(each["id"], each["batch"], each["against"]) for each in report["latency"]] == [
        (ONE, 1, "fp32"),
        (ONE, 64, "fp32"),
    ]
    (accuracy,) = report["results"]
    assert accuracy["latency"] == report["latency"]
    for each in report["latency"]:
        assert 0 < each["low"] <= each["ratio"] <= each["high"]
        assert 0 < each["wall_low"] <= each["wall_ratio"] <= each["wall_high"]
        assert each["threads"] == 1 or 0 < each["threads_low"] <= each["threads_ratio"] <= each["threads_high"]
        assert each["stands_for"] == [ONE]
        result.stdout.fnmatch_lines([f"{ONE} batch {each['batch']}: {each['speedup']:.2f}x the speed of fp32 *"])
    assert diff(report, report).lines() == ["0 worse, 0 vanished, 0 better, 0 appeared, 3 the same"]
    slower = json.loads((timed.path / "out.json").read_text())
    slower["latency"][1].update(ratio=99.0, low=98.0, high=100.0)
    assert [line.split(": ")[:2] for line in diff(report, slower).lines()[:1]] == [["worse", ONE]]
    stored = json.loads((timed.path / "bench.json").read_text())["benchmarks"]
    assert len(stored) == 2
    for each, race in zip(stored, report["latency"], strict=True):
        told = each["extra_info"]
        assert (told["case"], told["batch"], told["threads"], told["provider"]) == (
            ONE,
            race["batch"],
            1,
            "onnxruntime",
        )
        assert told["ratio"] == race["ratio"] == each["stats"]["median"]
        assert (each["stats"]["min"], each["stats"]["max"]) == (race["low"], race["high"])
        assert isinstance(told["isa"], list)
        assert told["size_bytes"] > 0 < told["reference_size_bytes"]
        assert each["stats"]["rounds"] == 3


def test_pytest_benchmark_compares_the_ratio(timed: pytest.Pytester) -> None:
    (timed.path / "bars.toml").write_text(BARS + "max_ratio = 1000\n")
    run(timed, *BATCH1, "--benchmark-autosave").assert_outcomes(passed=1)
    (saved,) = timed.path.glob(".benchmarks/*/0001_*.json")
    for factor, code in ((1.0, 0), (0.25, 1)):  # as if the artifact had been four times as fast then
        content = json.loads(saved.read_text())
        for each in content["benchmarks"]:
            each["stats"] = {
                name: factor * value if name == "median" else value for name, value in each["stats"].items()
            }
        saved.write_text(json.dumps(content))
        result = run(timed, *BATCH1, "--benchmark-compare", "--benchmark-compare-fail=median:100%")
        assert bool(result.ret) == bool(code)
    result.stderr.fnmatch_lines(["*Performance has regressed*"])


def test_methods_that_share_a_graph_share_its_race(timed: pytest.Pytester) -> None:
    conftest = CONFTEST.replace('("none", "minmax")', '("none", "minmax", "percentile")')
    (timed.path / "conftest.py").write_text(conftest)
    result = run(
        timed, "-k", "uint8 and (percentile or minmax) and not channel and not batch64",
        "--ptq-json", "o.json", "--ptq-html", "o.html",
    )  # fmt: skip
    assert result.ret == 0
    report = json.loads((timed.path / "o.json").read_text())
    assert len(report["latency"]) == 1
    both = ["mine-onnxruntime-uint8-minmax", "mine-onnxruntime-uint8-percentile"]
    assert report["latency"][0]["stands_for"] == both
    assert {each["id"]: each["latency"] for each in report["results"]} == dict.fromkeys(both, report["latency"])
    speedup = rf'<td class="wide" data-v="[0-9.]+">{report["latency"][0]["speedup"]:.2f}<small>'
    assert len(re.findall(speedup, (timed.path / "o.html").read_text())) == 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--benchmark-disable",), "benchmarks are disabled"),
        (("-n", "2"), "xdist runs tests side by side"),
    ],
)
def test_latency_that_cannot_be_measured_is_red_when_selected(
    timed: pytest.Pytester, arguments: tuple[str, ...], why: str
) -> None:
    if "-n" in arguments:
        pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    result = run(timed, *BATCH1, *arguments)
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{ONE}: -m latency, but {why}: nothing would be measured; use -n 0, with benchmarks"])


def test_latency_that_pytest_benchmark_skips_is_red(timed: pytest.Pytester) -> None:
    result = run(timed, *BATCH1, "--benchmark-skip")
    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ptq: no case was judged: all 1 selected were not run*"])


def test_latency_beside_other_gates_is_skipped_and_counted(timed: pytest.Pytester) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    result = run(timed, "-k", "u8s8", "-n", "2")
    result.assert_outcomes(passed=4, skipped=4)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["4 not run: latency: xdist runs tests side by side"])


def test_a_ratio_beyond_its_bar_is_red(timed: pytest.Pytester) -> None:
    bars = '["mine-*"]\nfloor = 0.9\nwhy = "x"\n'
    (timed.path / "bars.toml").write_text(f"{bars}min_speedup = 50.0\n")
    result = run(timed, *BATCH1)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"{ONE} batch 1 against fp32: time ratio * > 0.020"])
    (timed.path / "bars.toml").write_text(f'{bars}min_speedup = 50.0\nexpected_failure = ["latency"]\n')
    run(timed, *BATCH1).assert_outcomes(xfailed=1)
    (timed.path / "bars.toml").write_text(f"{bars}max_ratio = 0.02\n")
    run(timed, *BATCH1).assert_outcomes(failed=1)


def test_a_case_that_sleeps_is_red_where_it_has_a_bar_and_a_line_where_not(
    timed: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Pipeline.predictor

    def sleepy(pipeline: Pipeline, case: Case, threads: int = 1) -> Predictor:
        predict = load(pipeline, case, threads)

        def sleeping(batch: Batch) -> Batch:
            time.sleep(0.02)
            return predict(batch)

        return sleeping

    monkeypatch.setattr(Pipeline, "predictor", sleepy)
    bars = '["mine-*"]\nfloor = 0.9\nwhy = "x"\n'
    (timed.path / "bars.toml").write_text(f"{bars}max_ratio = 50.0\n")
    result = run(timed, *BATCH1)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [f"{ONE} batch 1 against fp32, by the wall clock: time ratio * > 50.000;*{ONE} waits *"]
    )
    (timed.path / "bars.toml").write_text(bars)
    run(timed, *BATCH1, "--ptq-json", "out.json").assert_outcomes(passed=1)
    content = json.loads((timed.path / "out.json").read_text())
    (line,) = [each for each in complaints(content) if "wall clock" in each]
    assert f"{ONE} waits" in line


def test_a_case_slower_than_the_base_revisions_is_red(timed: pytest.Pytester) -> None:
    base = ("-k", f"{ONE} and not channel and accuracy", "--ptq-artifacts", "base")
    run(timed, *base).assert_outcomes(passed=1)
    assert [each.name for each in (timed.path / "base").iterdir()] == [f"{ONE}.onnx"]
    against = (*BATCH1, "--ptq-against", "base")
    run(timed, *against, "--ptq-json", "same.json").assert_outcomes(passed=1)
    (race,) = json.loads((timed.path / "same.json").read_text())["latency"]
    assert (race["against"], race["verdict"]) == ("base", "pass")
    assert race["low"] <= 1.05
    write_model(timed.path / "model.onnx", conv=True)
    result = run(timed, *against)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"{ONE} batch 1 against base: time ratio * > 1.050"])


def test_a_base_that_is_not_there_is_red(timed: pytest.Pytester) -> None:
    result = run(timed, *BATCH1, "--ptq-against", "absent")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"{ONE}: --ptq-against *absent: no such folder; fill it with --ptq-artifacts*"])
    (timed.path / "empty").mkdir()
    result = run(timed, *BATCH1, "--ptq-against", "empty")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"{ONE}: no {ONE}.onnx in the folder given with --ptq-against*"])
    result = run(timed, *BATCH1, "--ptq-against", "empty", "--ptq-allow-new")
    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"1 not run: no {ONE}.onnx in the folder given with --ptq-against*"])


def test_a_race_is_held_to_the_bar_of_every_case_that_shares_its_graph(timed: pytest.Pytester) -> None:
    """min_speedup of percentile alone, and minmax is what is timed."""
    conftest = CONFTEST.replace('("none", "minmax")', '("none", "minmax", "percentile")')
    (timed.path / "conftest.py").write_text(conftest)
    bars = '["mine-*"]\nfloor = 0.9\nwhy = "x"\n["mine-*-percentile"]\nfloor = 0.9\nwhy = "y"\nmin_speedup = 1000\n'
    (timed.path / "bars.toml").write_text(bars)
    result = run(timed, *BATCH1)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"{ONE} batch 1 *> 0.001*; the bar is 'mine-?-percentile', of a case that runs the*"])


def test_latency_that_is_skipped_beside_accuracy_is_red_when_it_was_asked_for(timed: pytest.Pytester) -> None:
    result = run(timed, "-m", "accuracy or latency", "-k", f"{ONE} and not channel", "--benchmark-skip")
    result.assert_outcomes(passed=1, skipped=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ptq: -m latency: none of its tests was run: 2 were skipped by a mark*"])


def test_a_race_without_any_bar_is_red_and_beside_accuracy_a_line(timed: pytest.Pytester) -> None:
    result = run(timed, *BATCH1)
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    line = "ptq: latency: none of 1 measurements has a bar, so none can be red: set min_speedup or max_ratio"
    result.stdout.fnmatch_lines([line])
    result = run(timed, "-k", f"{ONE}-batch1 or (test_accuracy and {ONE} and not channel)")
    result.assert_outcomes(passed=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines([line])
