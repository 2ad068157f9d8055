"""ptq.gate.verdict: what is red, what is not, and the line that says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.backends.protocol import Census
from ptq.engine.score import Compared
from ptq.gate.bars import Bar
from ptq.gate.verdict import FAIL, PASS, UNRESOLVED, Verdict, judge_accuracy, judge_structure
from ptq.metrics.fidelity import Fidelity
from ptq.metrics.interval import Interval
from ptq.metrics.metric import Metric, Score
from ptq.metrics.top1 import Top1

ID = "cifar10-onnxruntime-int8-minmax"


EQUAL = Interval(0.0, -0.5, 0.5, 0.95)
NO_VNNI, VNNI = ("Linux x86_64", "avx2"), ("Linux x86_64", "avx2", "avx512_vnni")


def score(value: float, chance: float | None, n: int = 932) -> Score:
    return Score(value, n, None, {}, np.zeros(n), chance=chance)


def judge(
    value: float,
    interval: Interval,
    bar: Bar,
    fp32: float = 0.8777,
    metric: Metric | None = None,
    agreement: float | None = 0.9,
    sqnr_db: float | None = 20.0,
    isa: tuple[str, ...] = (),
    truth: bool = True,
    chance: float | None = 0.1,
    cosine: float | None = 0.97,
) -> Verdict:
    found = Compared(score(value, chance), score(fp32, chance), interval, agreement, sqnr_db, cosine)
    return judge_accuracy(ID, metric or Top1(), found, bar, isa, truth)


def test_under_the_floor_reads_as_documented() -> None:
    verdict = judge(0.8431, Interval(3.46, 1.9, 5.1, 0.95), Bar("*", "w", floor=0.85))
    assert (verdict.name, verdict.red) == (FAIL, True)
    assert verdict.reason == f"{ID}: top1 0.8431 < floor 0.8500 (fp32 0.8777, drop 3.46 pp, n=932)"


def test_numbers_that_round_alike_are_told_apart() -> None:
    assert "top1 0.84998 < floor 0.85000" in judge(0.84998, EQUAL, Bar("*", "w", floor=0.85)).reason


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
    verdict = judge(0.5, EQUAL, bar)
    assert (verdict.name, verdict.red) == (FAIL, False)
    assert verdict.reason.endswith("expected: int8 is known bad")
    assert "'accuracy' can leave expected_failure of '*'" in judge(0.9, EQUAL, bar).reason
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


class Loss(Metric):
    """A loss: less is better."""

    name, unit, higher_is_better = "mse", "squared error", False


def test_a_loss_is_held_to_a_ceiling_in_its_own_unit() -> None:
    rise = Interval(0.002, 0.001, 0.003, 0.95)
    bar = Bar("*", "w", ceiling=0.01, max_drop=0.004)
    good = judge(0.008, rise, bar, 0.006, Loss())
    assert (good.name, good.red) == (PASS, False)
    assert good.reason == (
        f"{ID}: rise 0.002 squared error <= max_drop 0.004 squared error (mse 0.008 squared error, fp32 0.006 squared "
        "error, 95 % [0.001, 0.003] squared error, n=932)"
    )
    high = judge(0.012, rise, bar, 0.01, Loss())
    assert (high.name, high.red) == (FAIL, True)
    assert "mse 0.012 > ceiling 0.01 (fp32 0.01 squared error, rise 0.002 squared error, n=932)" in high.reason
    risen = judge(0.009, rise, Bar("*", "w", max_drop=0.0005), 0.007, Loss())
    assert "rise 0.002 squared error > max_drop 0.0005 squared error" in risen.reason
    assert risen.red
    unsure = judge(0.009, rise, Bar("*", "w", max_drop=0.0025, confidence=0.95), 0.007, Loss())
    assert (unsure.name, unsure.red) == (UNRESOLVED, True)


@pytest.mark.parametrize(
    ("bar", "told"),
    [
        (Bar("*", "w", min_agreement=0.95), "agreement with fp32 0.9000 < min_agreement 0.9500"),
        (Bar("*", "w", min_sqnr_db=30), "SQNR 20.0 dB < min_sqnr_db 30.0 dB"),
        (Bar("*", "w", min_cosine=0.985), "mean cosine to fp32 0.9700 < min_cosine 0.9850"),
        (Bar("*", "w", floor=0.9, min_sqnr_db=30), "top1 0.8700 < floor 0.9000, SQNR 20.0 dB < min_sqnr_db 30.0 dB"),
    ],
)
def test_agreement_sqnr_and_cosine_are_gates(bar: Bar, told: str) -> None:
    verdict = judge(0.87, EQUAL, bar)
    assert (verdict.name, verdict.red) == (FAIL, True)
    assert told in verdict.reason
    equal = judge(0.95, EQUAL, bar, agreement=1.0, sqnr_db=float("inf"), cosine=1.0)
    assert equal.name == PASS


def test_without_a_truth_the_reason_says_so() -> None:
    for bar in (Bar("*", "w", floor=30), Bar("*", "w", floor=10), Bar("*", "w", min_sqnr_db=25)):
        verdict = judge(20.0, EQUAL, bar, 150.0, Fidelity(), truth=False, chance=0.0)
        assert verdict.reason.endswith("; no truth was given: the float model's own answers are the truth")
        assert verdict.red is (bar.floor != 10)
    assert "sqnr 20 < floor 30 (fp32 150 dB" in judge(20.0, EQUAL, Bar("*", "w", floor=30), 150.0, Fidelity()).reason


def test_a_failure_expected_without_vnni_is_red_with_it() -> None:
    bar = Bar("*", "sums saturate", floor=0.85, expected_failure=("accuracy without vnni",))
    without, with_ = judge(0.8, EQUAL, bar, isa=NO_VNNI), judge(0.8, EQUAL, bar, isa=VNNI)
    assert (without.name, without.red) == (FAIL, False)
    assert without.reason.endswith("; expected without vnni: sums saturate")
    assert (with_.name, with_.red) == (FAIL, True)
    assert "expected" not in with_.reason
    assert judge(0.8, EQUAL, bar, isa=("Linux aarch64",)).red
    passes = judge(0.9, EQUAL, bar, isa=NO_VNNI).reason
    assert "no longer fails: 'accuracy without vnni' can leave expected_failure of '*'" in passes
    assert "no longer fails" not in judge(0.9, EQUAL, bar, isa=VNNI).reason


def test_a_collapse_is_said_where_a_failure_is_expected() -> None:
    bar = Bar("*", "known", floor=0.85, expected_failure=("accuracy",))
    gone = judge(0.101, EQUAL, bar, agreement=0.1)
    assert (gone.name, gone.red) == (FAIL, False)
    assert "; collapsed: top1 0.1010, agreement with fp32 0.1000, no better than chance (0.1000)" in gone.reason
    assert "collapsed: agreement with fp32 0.1000, no" in judge(0.3, EQUAL, bar, agreement=0.1).reason
    assert "collapsed" not in judge(0.7, EQUAL, bar, agreement=0.75).reason
    # a float model that is no better itself has not collapsed, and a metric that does not know chance says nothing
    assert "collapsed" not in judge(0.101, EQUAL, bar, fp32=0.11, agreement=0.1).reason
    assert "collapsed" not in judge(0.101, EQUAL, bar, agreement=0.1, chance=None).reason
    # COCO's default configuration: every score of a box rounds to 0
    nothing = judge(0.0004, EQUAL, Bar("*", "known", floor=0.3, expected_failure=("accuracy",)), 0.456, chance=0.0)
    assert "; collapsed: top1 0.0004, no better than chance (0.0000)" in nothing.reason
