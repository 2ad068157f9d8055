"""ptq.verdict: what is red, what is not, and the line that says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.backends.protocol import Census
from ptq.bars import Bar
from ptq.metrics.metric import Interval, Score
from ptq.verdict import FAIL, PASS, UNRESOLVED, Verdict, judge_accuracy, judge_structure

ID = "cifar10-onnxruntime-int8-minmax"


def score(value: float, n: int = 932) -> Score:
    return Score(value, n, None, {}, np.zeros(n))


def judge(value: float, interval: Interval | None, bar: Bar, fp32: float = 0.8777) -> Verdict:
    return judge_accuracy(ID, "top1", score(value), None if interval is None else score(fp32), interval, bar)


def test_under_the_floor_reads_as_documented() -> None:
    verdict = judge(0.8431, Interval(3.46, 1.9, 5.1, 0.95), Bar("*", "w", floor=0.85))
    assert (verdict.name, verdict.red) == (FAIL, True)
    assert verdict.reason == f"{ID}: top1 0.8431 < floor 0.8500 (fp32 0.8777, drop 3.46 pp, n=932)"


def test_numbers_that_round_alike_are_told_apart() -> None:
    assert "top1 0.84998 < floor 0.85000" in judge(0.84998, None, Bar("*", "w", floor=0.85)).reason


def test_the_float_case_has_only_its_floor() -> None:
    bar = Bar("*", "w", floor=0.85, max_drop=0.0, confidence=0.95)
    assert judge(0.8777, None, bar) == Verdict(PASS, f"{ID}: top1 0.8777 (n=932)", red=False)
    assert judge(0.84, None, bar).red


@pytest.mark.parametrize(
    ("drop", "low", "high", "confidence", "name", "red"),
    [
        (0.5, -0.5, 0.9, None, PASS, False),
        (0.5, -0.5, 1.0, None, PASS, False),
        (0.5, -0.5, 1.5, None, UNRESOLVED, False),
        (0.5, -0.5, 1.5, 0.95, UNRESOLVED, True),
        (1.2, 0.2, 2.2, None, FAIL, True),
        (1.2, 0.2, 2.2, 0.95, UNRESOLVED, True),
        (2.5, 1.5, 3.5, None, FAIL, True),
        (2.5, 1.5, 3.5, 0.95, FAIL, True),
        (-3.0, -5.0, -1.0, 0.95, PASS, False),
    ],
)
def test_max_drop(drop: float, low: float, high: float, confidence: float | None, name: str, red: bool) -> None:
    verdict = judge(0.87, Interval(drop, low, high, 0.95, 0.5), Bar("*", "w", max_drop=1.0, confidence=confidence))
    assert (verdict.name, verdict.red) == (name, red)
    assert "n=932" in verdict.reason
    assert f"95 % [{low:.2f}, {high:.2f}] pp" in verdict.reason
    if name == UNRESOLVED:
        assert "images would resolve it" in verdict.reason
    if name == FAIL:
        assert f"drop {drop:.2f} pp > max_drop 1.00 pp" in verdict.reason


def test_unresolved_says_how_many_images() -> None:
    verdict = judge(0.87, Interval(0.5, -0.5, 1.5, 0.95), Bar("*", "w", max_drop=1.0, confidence=0.95))
    assert "about 3728 images would resolve it" in verdict.reason  # half of 1 pp at 932, twice too wide: 4 x 932
    never = judge(0.87, Interval(1.0, 0.0, 2.0, 0.95), Bar("*", "w", max_drop=1.0, confidence=0.95))
    assert "no images resolve it" in never.reason


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 20), st.sampled_from([None, 0.95]))
@settings(max_examples=150, deadline=None)
def test_better_never_fails(value: float, better: float, floor: float, width: float, confidence: float | None) -> None:
    worse, better = sorted((value, better))
    bar = Bar("*", "w", floor=floor, max_drop=1.0, confidence=confidence)

    def verdict(value: float) -> Verdict:
        drop = 100 * (0.9 - value)
        return judge(value, Interval(drop, drop - width, drop + width, 0.95), bar, 0.9)

    assert "\n" not in verdict(worse).reason
    if not verdict(worse).red:
        assert not verdict(better).red
    if verdict(worse).name == PASS:
        assert verdict(better).name == PASS


def test_expected_failure_is_not_red_in_its_own_gate_only() -> None:
    bar = Bar("*", "int8 is known bad", floor=0.85, min_integer_share=1.0, expected_failure=("accuracy",))
    verdict = judge(0.5, None, bar)
    assert (verdict.name, verdict.red) == (FAIL, False)
    assert verdict.reason.endswith("expected: int8 is known bad")
    assert "'accuracy' can leave expected_failure of '*'" in judge(0.9, None, bar).reason
    assert judge_structure(ID, Census({}, {"Conv": 1}), bar).red


def test_structure_names_nodes_and_cause() -> None:
    names = tuple(f"conv{each}" for each in range(6))
    census = Census({"Conv": 3}, {"Conv": 6}, stray=14, float_nodes=names, cause="int8 activations")
    bar = Bar("*", "w", floor=0.5, min_integer_share=1.0)
    verdict = judge_structure(ID, census, bar)
    assert (verdict.name, verdict.red) == (FAIL, True)
    assert verdict.reason == (
        f"{ID}: integer share 0.33 < min_integer_share 1.00 (3 of 9 compute nodes in integer: 3 of 9 Conv; in "
        "float: conv0, conv1, conv2, conv3, conv4, ...; 14 stray Q/DQ; likely cause: int8 activations)"
    )
    assert not judge_structure(ID, census, Bar("*", "w", floor=0.5, min_integer_share=0.3)).red
    assert judge_structure(ID, census, Bar("*", "w", floor=0.5)).name == PASS
    simulated = judge_structure(ID, Census({"Conv": 9}, {}, simulated="fake quantization in float"), bar)
    assert simulated.red
    assert "simulated: fake quantization in float" in simulated.reason
