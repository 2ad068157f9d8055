"""What to ship and the terminal table: the order, the words, and the width."""

from __future__ import annotations

from typing import Any

import pytest
from test_reports import LOSS, row, time

from ptq.cases import FP32
from ptq.gate.result import FAIL, NOT_INSTALLED, PASS, UNRESOLVED, Result
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


def test_what_runs_in_integer_goes_first_and_a_lower_share_is_said() -> None:
    paper, half = row("int8", 20, integer_share=0.03), row("uint8", 24, integer_share=0.925)
    assert "uint8" in ship([paper, half])[0]
    assert ship([paper, half])[0].endswith(", 92 % in integer")
    assert "u8s8" in ship([paper, half, row("u8s8", 60)])[0]
    assert ship([row("u8s8", integer_share=None)])[0].endswith(", integer share unknown")


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


def test_the_table_is_sorted_by_verdict_then_agreement() -> None:
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
    text = table(results(*rows), 200)
    lines = [line.split() for line in text.splitlines()[1:-1]]
    assert [line[2 if line[2] == FP32 else 3] for line in lines] == [
        FP32, "close", "lucky", "entropy", "mse", "gone", "minmax"
    ]  # fmt: skip
    assert " ".join(lines[4][-2:]) == "expected failure"
    assert " ".join(lines[5][-2:]) == "pass, worse"
    assert text.splitlines()[-1].startswith("ship digits-onnxruntime-int8-close: drop")


@pytest.mark.parametrize("width", [20, 70, 80, 100, 120, 150, 300])
def test_the_table_fits_and_cuts_nothing(width: int) -> None:
    rows = [row(FP32, 20), row("int8", 30, method="entropy", exclude="auto", granularity="channel", verdict=FAIL)]
    rows[1]["id"] = results(rows[1])[0].case.id
    head, _, line, *_ = table(results(*rows), width).splitlines()
    assert len(head) == len(line) <= max(width, 81)  # what is needed takes 81
    assert "…" not in line
    words = ["onnxruntime", "entropy auto", "channel"] if "workload" in head else [rows[1]["id"]]
    for word in (*words, "0.9250", "+2.50", "expected failure"):
        assert word in line
    full = ["n", "fp32", "kB", "int", "SQNR dB", "interval", "agree"]
    kept = [name for name in full if f" {name} " in head]
    assert kept == full[len(full) - len(kept) :]  # the least needed went first
    assert (len(kept) == len(full)) == (width == 300 or width == 150)


def test_a_metric_that_is_no_share_has_its_unit_in_a_table_of_its_own() -> None:
    loss = {**LOSS, "workload": "other", "id": "other-onnxruntime-int8-minmax", "truth": "float model"}
    lines = table(results(row(), loss), 200, timings=[time(0.5)]).splitlines()
    assert "accuracy" in lines[0]
    assert "drop pp" in lines[0]
    assert "mse, squared error" in lines[2]
    assert "drop squared error" in lines[2]
    assert lines[4] == "other: no truth was given: values are against the float model's own answers"
    assert "2.0x faster at batch 1" in lines[5]
    assert len(lines) == 7


def test_colour_is_only_where_it_is_asked_for() -> None:
    assert "\x1b[" not in table(results(row(reason="\x1b[31m", verdict=NOT_INSTALLED), row("u8s8")), 150)
    assert "\x1b[32mpass" in table(results(row()), 150, color=True)
    assert "\x1b[1;31mfail" in table(results(row(verdict=FAIL, red=True)), 150, color=True)
    assert "\x1b[33mexpected failure" in table(results(row(verdict=FAIL)), 150, color=True)
    assert PASS in table(results(row()), 150)
