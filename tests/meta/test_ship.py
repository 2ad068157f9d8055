"""What to ship and the terminal table: the order, the words, and the width."""

from __future__ import annotations

from typing import Any

import pytest
from many_cases import many
from some_report import LOSS, row, time

from ptq.cases import FP32, Case
from ptq.gate.result import FAIL, NOT_INSTALLED, PASS, UNRESOLVED, Result
from ptq.report.findings import in_float, unmeasured
from ptq.report.ship import ship
from ptq.report.table import table


def results(*rows: dict[str, Any]) -> list[Result]:
    return [Result.from_json(each) for each in rows]


def test_the_best_passing_case_is_named_with_its_facts() -> None:
    rows = [row(FP32, 20), row("u8s8", 22), row("uint8", 24), row("int8", 20, verdict=FAIL, red=True)]
    line = "ship digits-onnxruntime-u8s8-minmax: drop +0.50 pp [-0.50, +1.50], agreement 0.9950, 2.8x smaller"
    assert ship(rows) == [line]
    assert ship(rows, [time(0.5, "u8s8"), time(2.0, "u8s8", batch=64)]) == [
        f"{line}, 2.0x faster at batch 1, 2.0x slower at batch 64"
    ]


@pytest.mark.parametrize(
    "better",
    [
        {"agreement": 0.99},
        {"sqnr_db": 21.0},
        {"sqnr_db": None, "agreement": 1.0},
        {"drop": 0.4},
        {"size_bytes": 100_000},
    ],
)
def test_agreement_then_sqnr_then_drop_then_size_decide(better: dict[str, Any]) -> None:
    other = row("u8s8", 30, method="entropy")  # ids in the other order would name this one
    assert ship([other, row("u8s8", 30, **better)])[0].startswith("ship digits-onnxruntime-u8s8-minmax:")


def test_a_luckier_accuracy_does_not_decide() -> None:
    lucky = row("uint8", 30, value=0.99, drop=-4.0, agreement=0.9)
    assert ship([lucky, row("u8s8", 30)])[0].startswith("ship digits-onnxruntime-u8s8-minmax")


def test_what_runs_mostly_in_float_goes_last_and_a_share_below_the_whole_is_said() -> None:
    paper, half = row("int8", 20, integer_share=0.03), row("uint8", 24, integer_share=0.925)
    assert "uint8" in ship([paper, half])[0]
    assert ship([paper, half])[0].endswith(", 92 % in integer")
    # a layer in float is no reason to ship what is further from the float model
    assert "uint8" in ship([paper, half, row("u8s8", 60)])[0]
    assert "u8s8" in ship([paper, row("u8s8", 60)])[0]
    assert ship([row("u8s8", integer_share=None)])[0].endswith(", integer share unknown")


def test_what_is_slower_than_the_float_model_at_every_batch_goes_after_what_is_faster() -> None:
    near, far = row("uint8", 22), row("u8s8", 30)
    slow, fast = [time(1.15, "uint8", batch=batch) for batch in (1, 64)], time(0.7, "u8s8")
    assert "uint8" in ship([near, far], [fast])[0]
    assert "u8s8" in ship([near, far], [*slow, fast])[0]
    assert "uint8" in ship([near, far], [slow[0], {**slow[1], "low": 0.8}, fast])[0]
    assert "slower at batch 64" in ship([near], slow)[0]  # smaller it is


@pytest.mark.parametrize("what", [{"verdict": FAIL}, {"verdict": UNRESOLVED}, {"red": True}])
def test_what_does_not_pass_is_not_shipped(what: dict[str, Any]) -> None:
    assert ship([row(FP32, 20), row(**what)]) == ["digits: ship nothing: no quantized case passes"]


def test_what_is_too_slow_is_not_shipped_nor_what_was_not_measured() -> None:
    slow = time(1.4, verdict=FAIL, red=True)
    assert ship([row()], [slow]) == ["digits: ship nothing: no quantized case passes"]
    assert ship([row(method="entropy")], [slow]) == ["digits: ship nothing: no quantized case passes"]  # the same graph
    assert ship([row(FP32)]) == ["digits: ship nothing: no quantized case was judged"]
    assert ship([row(verdict=NOT_INSTALLED)]) == ship([]) == []


def test_a_metric_with_a_unit_and_no_truth() -> None:
    (line,) = ship([{**LOSS, "truth": "float model", "agreement": None, "size_bytes": 400_000}])
    assert line == (
        "ship digits-onnxruntime-int8-minmax: drop +0 squared error [-0.01, +0.01], 1.2x larger, "
        "against the float model's own answers"
    )


def test_a_value_that_is_a_distance_to_the_float_model_has_no_drop() -> None:
    distance = {"metric": "sqnr", "unit": "dB", "value": 31.25, "fp32_value": 150.0, "drop": 118.75}
    told = {**row(agreement=None, truth="float model"), **distance, "interval": [118.0, 119.5], "has_drop": False}
    (line,) = ship([told])
    assert line.startswith("ship digits-onnxruntime-int8-minmax: 31.25 dB, ")
    assert "drop" not in line
    assert "drop" not in table(results(told), 200)
    assert "drop dB" in table(results({**told, "has_drop": True}), 200)


def test_the_table_is_sorted_by_verdict_then_agreement_and_float_cases_are_last() -> None:
    worse = {"value": 0.95, "worse": True, "line": "worse"}
    rows = [
        row("int8", 30, method="minmax", verdict=FAIL, red=True),
        row("int8", 30, method="mse", verdict=FAIL),
        row("int8", 30, method="entropy", verdict=UNRESOLVED),
        row("int8", 22, method="gone", red=True, reference=worse),
        row("int8", 40, method="lucky", value=0.99),
        row("int8", 24, method="close"),
        row(FP32, 90),
    ]
    title, _, *lines = table(results(*rows), 200).splitlines()
    assert title == "digits: n 400, fp32 0.9500"
    cases = [line.split()[0].removeprefix("onnxruntime-int8-") for line in lines]
    assert cases == ["close", "lucky", "entropy", "mse", "gone", "minmax", "onnxruntime-fp32"]
    assert " ".join(lines[3].split()[-2:]) == "expected failure"
    assert " ".join(lines[4].split()[-2:]) == "pass, worse"


@pytest.mark.parametrize("width", [20, 70, 80, 100, 120, 150, 200, 300])
def test_the_table_fits_and_cuts_nothing(width: int) -> None:
    rows = [row(FP32, 20), row("int8", 30, method="percentile", exclude="auto", granularity="channel", verdict=FAIL)]
    rows[1]["id"] = results(rows[1])[0].case.id
    races = [time(0.5, stands_for=[rows[1]["id"]], batch=batch) for batch in (1, 64)]
    _, head, line, _ = table(results(*rows), width, timings=races).splitlines()
    assert len(head) == len(line) <= max(width, 75)  # what is needed takes 75
    assert "…" not in line
    for word in ("onnxruntime-int8-percentile-channel-auto", "0.9250", "+2.50", "expected failure"):
        assert word in line
    full = ["x b64", "x b1", "kB", "SQNR dB", "int", "interval", "agree"]
    kept = [name for name in full if f" {name} " in head]
    assert kept == full[len(full) - len(kept) :]  # the least needed went first
    assert (len(kept) == len(full)) == (width >= 150)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_200_cases_fit_every_terminal_and_a_file(width: int) -> None:
    content = many()
    lines = table(
        [Result.from_json(each) for each in content["results"]], width, timings=content["latency"]
    ).splitlines()
    assert max(map(len, lines)) <= width
    assert [line for line in lines if line.startswith(("cifar10: ", "digits: ", "imagenet: "))] == [
        "cifar10: n 400, fp32 0.9500", "digits: n 400, fp32 0.9500", "imagenet: n 400, fp32 0.9500"
    ]  # fmt: skip
    told = [line.split()[0] for line in lines]
    for each in content["results"]:
        assert told.count(each["id"].removeprefix(f"{each['workload']}-")) >= 1


def test_cases_that_agree_in_every_figure_share_a_line() -> None:
    rows = [row(method=name) for name in ("mse", "entropy", "minmax")]
    _, _, *lines = table(results(*rows, row("u8s8", method="mse")), 200).splitlines()
    assert [line.split()[0] for line in lines] == ["onnxruntime-int8-{entropy,minmax,mse}", "onnxruntime-u8s8-mse"]
    other = {"agreement": 0.9412}  # of one of three: as good as the others, but not the same
    lines = table(results(*rows[:2], {**rows[2], **other}), 200).splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["onnxruntime-int8-{entropy,mse}", "onnxruntime-int8-minmax"]
    named = [row(method=f"a_method_of_a_long_name_{name}") for name in "ab"]
    assert len(table(results(*named), 200).splitlines()) == 4  # a name that folding makes too long is not folded
    both = [row("int8", method="mse"), row("u8s8", method="minmax")]
    assert len(table(results(*both), 200).splitlines()) == 4  # braces in two places would name cases that are not there


def test_absent_frameworks_are_one_line_and_other_reasons_one_each() -> None:
    def away(workload: str, backend: str, verdict: str, reason: str) -> Result:
        return Result(Case(workload, backend, "int8", "minmax"), "top1", verdict, reason)

    absent = [
        away(workload, backend, NOT_INSTALLED, f"not installed: pip install 'ptq[{extra}]'")
        for workload in ("cifar10", "digits")
        for backend, extra in (("torch", "torch"), ("torch_pt2e", "torch"), ("tflite", "litert"))
    ]
    absent += [
        away("coco", "onnxruntime", "no_data", "name the folder"),
        away("coco", "torch", "unsupported", "no Resize"),
    ]
    assert table(absent, 80).splitlines() == [
        "6 cases not installed: tflite (pip install 'ptq[litert]'); torch, torch_pt2e (pip install 'ptq[torch]')",
        "1 case of coco no data: name the folder",
        "1 case of coco unsupported: no Resize",
    ]
    rows = [each.as_json() for each in absent]
    told = {
        "not installed: pip install 'ptq[torch]'": 4,
        "not installed: a": 1,
        "not installed: b": 2,
        "latency: -n": 3,
    }
    assert unmeasured(told, rows) == ["3 not run: not installed: a; b", "3 not run: latency: -n"]


def test_the_structure_tells_what_is_not_in_integer_and_one_line_for_the_rest() -> None:
    def counted(name: str, integer: int, floating: int, **more: Any) -> dict[str, Any]:
        return {
            "id": f"digits-{name}", "workload": "digits", "dtype": name.split("-")[1], "integer": {"Conv": integer},
            "floating": {"Conv": floating} if floating else {}, "integer_share": integer / (integer + floating),
            "simulated": None, "cause": None, "verdict": PASS, "reason": "", **more,
        }  # fmt: skip

    lines = in_float([
        counted("ort-fp32", 0, 9), counted("ort-u8s8-minmax", 9, 0), counted("ort-u8s8-mse", 9, 0),
        counted("ort-int8-minmax", 3, 6, cause="int8 activations"),
        counted("ort-int8-mse", 3, 6, cause="int8 activations"),
        counted("mo-int8-max", 0, 9, simulated="Q/DQ around float kernels"),
        counted("ort-uint8-mse", 8, 1, verdict=FAIL, reason="digits-ort-uint8-mse: integer share 0.89 < 1.00"),
    ])  # fmt: skip
    assert lines == [
        "digits-mo-int8-max: 9 of 9 compute nodes in float: 9 Conv; Q/DQ around float kernels",
        "digits-ort-int8-minmax and 1 more like it: 6 of 9 compute nodes in float: 6 Conv; int8 activations",
        "digits-ort-uint8-mse: integer share 0.89 < 1.00",
        "2 cases run all of their compute nodes in integer",
    ]


def test_a_metric_that_is_no_share_has_its_unit_in_its_heading() -> None:
    loss = {**LOSS, "workload": "other", "id": "other-onnxruntime-int8-minmax", "truth": "float model"}
    lines = table(results(row(), loss), 200, timings=[time(0.5)]).splitlines()
    assert "top1" in lines[1]
    assert "drop pp" in lines[1]
    assert lines[3].startswith("other: n 400")
    assert "mse, squared error" in lines[4]
    assert "drop squared error" in lines[4]
    assert lines[6] == "other: no truth was given: values are against the float model's own answers"
    assert len(lines) == 7


def test_colour_is_only_where_it_is_asked_for() -> None:
    assert "\x1b[" not in table(results(row(reason="\x1b[31m", verdict=NOT_INSTALLED), row("u8s8")), 150)
    assert "\x1b[32mpass" in table(results(row()), 150, color=True)
    assert "\x1b[1;31mfail" in table(results(row(verdict=FAIL, red=True)), 150, color=True)
    assert "\x1b[33mexpected failure" in table(results(row(verdict=FAIL)), 150, color=True)
    assert PASS in table(results(row()), 150)
