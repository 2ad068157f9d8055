"""ptq.gate.reference: a result that got worse is seen, above its floor too, and an update is a reviewable diff."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.cases import Case
from ptq.errors import BadData
from ptq.gate.reference import References, load_references
from ptq.gate.result import NO_DATA, PASS, Result

pytest.importorskip("scipy", reason="paired statistics need scipy: pip install 'ptq[suite]'")

CASE = Case("digits", "onnxruntime", "int8", "minmax")
ENVIRONMENT = {"python": "3.11.2", "isa": ["avx2"], "libraries": {"numpy": "2.4.6"}}


def result(right: np.ndarray, case: Case = CASE, evaluation: str = "e1") -> Result:
    packed = base64.b64encode(np.packbits(right).tobytes()).decode()
    value = float(right.mean())
    return Result(
        case, "top1", PASS, n=len(right), value=value, fp32_value=0.95, drop=100 * (0.95 - value),
        interval=(100 * (0.95 - value) - 1, 100 * (0.95 - value) + 1), evaluation=evaluation, outcomes=packed,
    )  # fmt: skip


def right(n: int = 400, wrong: int = 20, at: int = 0) -> np.ndarray:
    outcomes = np.ones(n, bool)
    outcomes[at : at + wrong] = False
    return outcomes


def made(path: Path, *results: Result) -> References:
    return References(path).updated(results, ENVIRONMENT, {each.case.id for each in results})


def test_significantly_worse_on_the_same_images_is_seen(tmp_path: Path) -> None:
    references = made(tmp_path / "reference.json", result(right(wrong=20)))
    comparison = references.compare(result(right(wrong=30)))
    assert comparison is not None
    assert comparison.worse
    assert comparison.line == (
        "digits-onnxruntime-int8-minmax: top1 0.9250 is significantly worse than its reference 0.9500 "
        "(10 images lost, 0 won, McNemar p=0.00098, n=400)"
    )


@pytest.mark.parametrize("now", [right(wrong=20), right(wrong=24), right(wrong=20, at=100), right(wrong=0)])
def test_chance_and_better_are_not_worse(now: np.ndarray, tmp_path: Path) -> None:
    comparison = made(tmp_path / "r.json", result(right(wrong=20))).compare(result(now))
    assert comparison is not None
    assert not comparison.worse
    assert "is no worse than" in comparison.line


def test_on_other_images_the_growth_of_the_drop_decides(tmp_path: Path) -> None:
    references = made(tmp_path / "r.json", result(right(wrong=20)))
    other = result(right(wrong=31), evaluation="e2")
    comparison = references.compare(other)  # 2.75 pp worse, 1.7 * sqrt(2) * 1 + 0.1 pp may be chance
    assert comparison is not None
    assert comparison.worse
    assert "drop against FP32 grew by 2.75 pp on other images" in comparison.line
    assert other.fp32_value is not None
    easier = references.compare(replace(other, fp32_value=other.fp32_value - 0.02))
    assert easier is not None
    assert not easier.worse


def test_without_outcomes_the_loss_of_value_decides(tmp_path: Path) -> None:
    then = replace(result(right(wrong=20)), outcomes=None)
    references = made(tmp_path / "r.json", then)
    assert then.value is not None
    for loss, worse in ((0.014, False), (0.016, True), (-0.2, False)):
        comparison = references.compare(replace(then, value=then.value - loss))
        assert comparison is not None
        assert comparison.worse is worse


def test_a_loss_gets_worse_upwards_in_its_own_unit(tmp_path: Path) -> None:
    then = Result(
        CASE, "mse", PASS, n=400, value=0.02, fp32_value=0.01, drop=0.01, interval=(0.009, 0.011), evaluation="e1",
        unit="squared error", higher_is_better=False,
    )  # fmt: skip
    references = made(tmp_path / "r.json", then)
    for value, worse in ((0.0213, False), (0.0216, True), (0.001, False)):
        comparison = references.compare(replace(then, value=value))
        assert comparison is not None
        assert comparison.worse is worse
    risen = references.compare(replace(then, value=0.05, evaluation="e2"))
    assert risen is not None
    assert risen.worse
    assert "drop against FP32 grew by 0.03 squared error on other images" in risen.line
    small = made(tmp_path / "r.json", replace(then, value=1.23456789e-8))
    assert small.entries[CASE.id].value == 1.23457e-8


def test_a_reference_of_another_metric_guards_nothing_and_is_red(tmp_path: Path) -> None:
    comparison = made(tmp_path / "r.json", result(right())).compare(replace(result(right()), metric="top5"))
    assert comparison is not None
    assert comparison.worse
    assert comparison.line == f"{CASE.id}: top5, but its reference is top1; run with --ptq-update"


def test_missing_and_orphans(tmp_path: Path) -> None:
    references = made(tmp_path / "r.json", result(right()))
    other = Case("digits", "onnxruntime", "u8s8", "minmax")
    assert references.compare(result(right(), other)) is None
    assert references.missing([CASE.id, other.id]) == [other.id]
    assert references.orphans([other.id]) == [CASE.id]
    assert references.orphans([CASE.id]) == []


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    cases = [Case("digits", "onnxruntime", dtype, "minmax") for dtype in ("int8", "uint8", "u8s8")]
    results = [result(right(wrong=each), case) for each, case in enumerate(cases)]
    one, two = made(tmp_path / "one.json", *results), made(tmp_path / "two.json", *reversed(results))
    one.save()
    two.save()
    assert one.path.read_bytes() == two.path.read_bytes()
    assert load_references(one.path) == one
    again = load_references(one.path).updated(results, {"python": "3.12.0"}, [each.id for each in cases])
    assert again == one  # nothing was measured differently: nothing to review


def test_an_update_changes_what_changed(tmp_path: Path) -> None:
    other = Case("digits", "onnxruntime", "u8s8", "minmax")
    references = made(tmp_path / "r.json", result(right()), result(right(), other))
    absent = Result(other, "top1", NO_DATA, "no data")
    after = references.updated([result(right(wrong=10)), absent], {"python": "3.12.0"}, [CASE.id, other.id])
    assert after.entries[other.id] == references.entries[other.id]
    assert after.entries[CASE.id].value == 0.975
    assert sorted(after.environments.values(), key=str) == sorted([ENVIRONMENT, {"python": "3.12.0"}], key=str)
    gone = after.updated([], {}, [CASE.id])
    assert set(gone.entries) == {CASE.id}
    assert list(gone.environments.values()) == [{"python": "3.12.0"}]


def test_an_absent_file_is_no_references(tmp_path: Path) -> None:
    assert load_references(tmp_path / "none.json").entries == {}


def test_a_bad_file_is_told_in_one_line(tmp_path: Path) -> None:
    good = made(tmp_path / "reference.json", result(right()))
    good.save()
    content = json.loads(good.path.read_text())
    bad: list[object] = [
        [],
        {},
        {**content, "schema": "ptq-reference/0"},
        {**content, "cases": 3},
        {"schema": content["schema"]},
    ]
    for key, value in (("outcomes", "####"), ("outcomes", "AAAA"), ("n", 1.5), ("value", "high"), ("more", 1)):
        bad.append({**content, "cases": {CASE.id: {**content["cases"][CASE.id], key: value}}})
    for each in [json.dumps(each) for each in bad] + ["{", "\x00"]:
        good.path.write_text(each)
        with pytest.raises(BadData) as caught:
            load_references(good.path)
        assert "--ptq-update" in str(caught.value)
        assert "\n" not in str(caught.value)


@given(st.integers(1, 60), st.integers(0, 2**60 - 1))
@settings(max_examples=50, deadline=None)
def test_any_outcomes_survive_the_file(n: int, bits: int) -> None:
    outcomes = np.array([bits >> each & 1 for each in range(n)], bool)
    references = made(Path("unused.json"), result(outcomes))
    comparison = references.compare(result(outcomes))
    assert comparison is not None
    assert f"(0 images lost, 0 won, McNemar p=1, n={n})" in comparison.line
