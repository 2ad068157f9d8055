"""ptq diff: better and worse beyond chance, and whatever cannot be compared is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from some_report import LOSS, row, some, time

from ptq.cli import commands
from ptq.gate.result import FAIL, NOT_INSTALLED, UNRESOLVED
from ptq.report import markdown
from ptq.report.diff import diff
from ptq.report.json import report
from ptq.report.json import write as write_json


def test_diff_of_a_report_with_itself_is_nothing() -> None:
    found = diff(some(), some())
    assert (found.worse, found.better, found.appeared, found.vanished, found.same) == ((), (), (), (), 7)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (row(wrong=20), row(wrong=40), "top1 0.9500 -> 0.9000 (n=400)"),
        (row(), row(verdict=FAIL, reason="why"), "pass -> fail: why"),
        (row(), row(verdict=UNRESOLVED, reason="why"), "pass -> unresolved: why"),
        (row(verdict=FAIL), row(verdict=FAIL, red=True), "red False -> True"),
        (LOSS, {**LOSS, "value": 0.9, "drop": 0.8, "interval": (0.79, 0.81)}, "mse, squared error 0.1 -> 0.9 (n=400)"),
        (row(integer_share=1.0), row(integer_share=0.43), "in integer 100% -> 43%"),
    ],
)
def test_diff_tells_worse_from_better(old: dict[str, Any], new: dict[str, Any], told: str) -> None:
    found = diff(report([old], {}), report([new], {}))
    assert len(found.worse) == 1
    assert told in found.worse[0]
    back = diff(report([new], {}), report([old], {}))
    assert back.worse == ()
    assert len(back.better) == 1


def test_diff_refuses_another_metric_and_a_vanished_case() -> None:
    found = diff(report([row()], {}), report([row(metric="map")], {}))
    assert found.worse == ("digits-onnxruntime-int8-minmax: metric top1 -> map: values cannot be compared",)
    gone = diff(report([row()], {}), report([], {}))
    assert gone.vanished == ("digits-onnxruntime-int8-minmax: no such case",)
    assert gone.regressed
    assert not diff(report([], {}), report([row()], {})).regressed


def test_diff_leaves_chance_alone() -> None:
    old, new = report([row(wrong=40)], {}, latency=[time(0.6)]), report([row(wrong=43)], {}, latency=[time(0.61)])
    assert diff(old, new).same == diff(new, old).same == 2


def test_diff_compares_times_to_fp32() -> None:
    old, new = report([], {}, latency=[time(0.6)]), report([], {}, latency=[time(0.7)])
    line = "digits-onnxruntime-int8-minmax: time ratio at batch 1 0.600 -> 0.700"
    assert diff(old, new).worse == (line,)
    assert len(diff(new, old).better) == 1
    base = report([], {}, latency=[time(0.6, against="base")])
    assert diff(base, new).same == 0


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str, list[dict[str, Any]]], str]:
    def save(name: str, rows: list[dict[str, Any]]) -> str:
        write_json(tmp_path / name, report(rows, {}))
        return str(tmp_path / name)

    return save


def test_the_diff_command_exits_1_on_worse(saved: Callable[[str, list[dict[str, Any]]], str]) -> None:
    old = saved("old.json", [row(wrong=20), row("uint8")])
    away = row("uint8", verdict=NOT_INSTALLED, reason="no backend")
    new = saved("new.json", [row(wrong=60), row("u8s8"), away])
    run = CliRunner().invoke(commands(), ["diff", old, new], standalone_mode=False)
    assert run.return_value == 1
    lines = run.output.splitlines()
    assert lines[0].startswith("worse: digits-onnxruntime-int8-minmax: top1 0.9500 -> 0.8500")
    assert lines[1] == "vanished: digits-onnxruntime-uint8-minmax: not installed: no backend"
    assert lines[2].startswith("appeared: digits-onnxruntime-u8s8-minmax: pass, top1 0.9000")
    assert lines[3] == "1 worse, 1 vanished, 0 better, 1 appeared, 0 the same"

    def code(one: str, other: str) -> int:
        return int(CliRunner().invoke(commands(), ["diff", one, other], standalone_mode=False).return_value)

    assert code(new, old) == 1  # u8s8 has vanished
    assert code(saved("none.json", [away]), old) == code(old, old) == 0
    assert json.loads(Path(old).read_text())["schema"] == "ptq/1"


def test_the_diff_as_a_comment(saved: Callable[[str, list[dict[str, Any]]], str]) -> None:
    old = saved("old.json", [row(wrong=20), row("uint8"), row("u8s8", method="a_b")])
    new = saved("new.json", [row(wrong=60), row("u8s8", method="a_b")])
    command = ["diff", old, new, "--markdown"]
    lines = CliRunner().invoke(commands(), command, standalone_mode=False).output.splitlines()
    assert lines[0] == "### ptq: 1 worse, 1 no longer judged, 1 the same"
    assert lines[2] == "**worse**"
    assert lines[4].startswith("- digits-onnxruntime-int8-minmax: top1 0.9500 -\\> 0.8500")
    assert lines[-1] == "- digits-onnxruntime-uint8-minmax: no such case"
    same = CliRunner().invoke(commands(), ["diff", old, old, "--markdown"], standalone_mode=False)
    assert same.output == "### ptq: nothing changed, 3 the same\n"
    many = [row(method=f"m{each}", wrong=20) for each in range(200)]
    fell = [row(method=f"m{each}", wrong=60) for each in range(200)]
    told = markdown.changes(diff(report(many, {}), report(fell, {})))
    assert told.endswith("- and 100 more\n")
    assert len(told) < 65_536
