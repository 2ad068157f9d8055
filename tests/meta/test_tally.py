"""Tally: what makes a run red although no test failed."""

from __future__ import annotations

import pytest

from ptq.cases import Case
from ptq.gate.result import NO_DATA, PASS, Result
from ptq.gate.tally import Demand, Tally

JUDGED = Result(Case("digits", "onnxruntime", "int8", "minmax"), "top1", PASS)
ABSENT = Result(Case("cifar10", "onnxruntime", "int8", "minmax"), "top1", NO_DATA, "no data: name the folder")
FLOAT = Result(Case("digits", "onnxruntime", "fp32"), "top1", PASS)
KNOWN = {"digits", "cifar10", "onnxruntime", "torch"}


def tally(*results: Result, checked: tuple[str, ...] = ()) -> Tally:
    return Tally({each.case.id: each for each in results}, checked=set(checked), gates=len(results))


def test_a_run_that_proves_what_it_should_has_no_complaint() -> None:
    assert tally(JUDGED, ABSENT).complaints(KNOWN, Demand(("digits", "onnxruntime"), 1)) == []


def test_a_checked_workload_counts_as_run() -> None:
    assert tally(checked=("cifar10",)).complaints(KNOWN, Demand(("cifar10",))) == []


def test_a_checked_workload_none_of_whose_cases_was_judged_does_not_count() -> None:
    [line] = tally(ABSENT, checked=("cifar10",)).complaints(KNOWN, Demand(("cifar10",)))
    assert line == "--ptq-require cifar10: nothing of it was judged (no data: name the folder)"


@pytest.mark.parametrize(
    ("results", "demand", "line"),
    [
        ([JUDGED, ABSENT], Demand(("cifar10",)), "nothing of it was judged (no data: name the folder)"),
        ([JUDGED], Demand(("torch",)), "nothing of it was judged (no test of it was selected)"),
        ([JUDGED], Demand(("cifra10",)), "no such workload or backend; there are cifar10, digits"),
        ([ABSENT], Demand(), "no case was judged: all 1"),
        ([JUDGED], Demand((), 2), "only 1 cases were judged"),
        ([FLOAT], Demand(("digits",)), "--ptq-require digits: only its float cases were judged"),
        ([FLOAT], Demand(("onnxruntime",)), "--ptq-require onnxruntime: only its float cases were judged"),
    ],
)
def test_a_run_that_proves_less_is_told_so(results: list[Result], demand: Demand, line: str) -> None:
    assert line in "\n".join(tally(*results).complaints(KNOWN, demand))


def test_a_case_that_two_gates_judge_counts_once() -> None:
    seen = tally(JUDGED)
    seen.structures[JUDGED.case.id] = JUDGED.case.fields() | {"id": JUDGED.case.id}
    assert seen.complaints(KNOWN, Demand((), 1)) == []
    assert "only 1 cases were judged" in "\n".join(seen.complaints(KNOWN, Demand((), 2)))


def test_what_the_benchmark_measured_is_in_the_report() -> None:
    seen = Tally()
    seen.add([("speed", '{"name": "minmax", "value": 3.2, "bar": 3}')])
    assert seen.rows()["speed"] == {"minmax": {"value": 3.2, "bar": 3}}
