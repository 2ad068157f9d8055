"""ptq.gate.bars: the most specific pattern governs, and nothing in bars.toml is silently without effect."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.errors import BadData, PtqError
from ptq.gate.bars import Bar, Bars, load_bars
from ptq.metrics.fidelity import Agreement, Fidelity
from ptq.metrics.metric import Metric
from ptq.metrics.top1 import Top1

IDS = ["digits-onnxruntime-fp32", "digits-onnxruntime-int8-minmax", "digits-onnxruntime-u8s8-minmax"]


def written(folder: Path, text: str) -> Bars:
    path = folder / "bars.toml"
    path.write_text(text)
    return load_bars(path)


def test_every_key_is_read(tmp_path: Path) -> None:
    bars = written(
        tmp_path,
        """
        ["digits-*"]
        why = "measured, less a margin"
        floor = 0.97
        ceiling = 3
        max_drop = 1
        min_agreement = 0.98
        min_sqnr_db = 30
        min_cosine = 0.985
        confidence = 0.95
        min_integer_share = 1.0
        min_speedup = 1.1
        max_ratio = 0.95
        expected_failure = ["latency", "accuracy without vnni"]
        """,
    )
    bar = bars.of(IDS[1])
    assert bar == Bar(
        "digits-*", "measured, less a margin", floor=0.97, ceiling=3.0, max_drop=1.0, min_agreement=0.98,
        min_sqnr_db=30.0, min_cosine=0.985, confidence=0.95, min_integer_share=1.0, min_speedup=1.1, max_ratio=0.95,
        expected_failure=("latency", "accuracy without vnni"),
    )  # fmt: skip
    assert bar.ratio == pytest.approx(1 / 1.1)
    assert bars.check(IDS) == []
    assert Bar("a", "b", floor=0.5).as_json() == {"pattern": "a", "why": "b", "floor": 0.5}


def test_the_most_literal_characters_win(tmp_path: Path) -> None:
    bars = written(
        tmp_path,
        """
        ["*"]
        why = "fallback"
        floor = 0.1
        ["digits-*"]
        why = "all"
        floor = 0.2
        ["digits-*-[iu]*8*-minmax"]
        why = "minmax"
        floor = 0.3
        ["digits-onnxruntime-u8s8-minmax"]
        why = "one"
        floor = 0.4
        """,
    )
    assert [bars.of(each).floor for each in (*IDS, "cifar10-x")] == [0.2, 0.3, 0.4, 0.1]


def test_a_tie_on_a_case_is_an_error(tmp_path: Path) -> None:
    bars = written(tmp_path, '["digits-*"]\nwhy="a"\nfloor=0.1\n["*-minmax"]\nwhy="b"\nfloor=0.2')
    assert bars.of(IDS[0]).floor == 0.1
    with pytest.raises(PtqError, match=r"'digits-\*' and '\*-minmax' match case .* with 7 literal characters each"):
        bars.of(IDS[1])
    assert len(bars.check(IDS)) == 2


def test_a_case_without_a_bar_is_an_error(tmp_path: Path) -> None:
    bars = written(tmp_path, '["digits-*-fp32"]\nwhy="a"\nfloor=0.1')
    lines = bars.check(IDS[:2])
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "bars.toml: no bar for case digits-onnxruntime-int8-minmax" in lines[0]
    assert "closest pattern: 'digits-*-fp32'" in lines[0]


def test_a_bar_without_a_case_is_an_error_and_names_the_closest(tmp_path: Path) -> None:
    patterns = "digits-*", "digits-onnxruntime-u8s8-minmx", "q?z*"
    lines = written(tmp_path, "\n".join(f'["{each}"]\nwhy="a"\nfloor=0.1' for each in patterns)).check(IDS)
    assert len(lines) == 2
    assert "'digits-onnxruntime-u8s8-minmx' matches none of 3 cases" in lines[0]
    assert lines[0].endswith("was 'digits-onnxruntime-u8s8-minmax' meant?")
    assert lines[1].endswith("'q?z*' matches none of 3 cases, but should match one: remove it")


GOOD = 'why = "measured"\nfloor = 0.9\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('["a"]\n' + GOOD + "flor = 0.9", "unknown key 'flor': was 'floor' meant?"),
        ('["a"]\n' + GOOD + "zzz = 0.9", "unknown key 'zzz': it should be one of why, floor"),
        ('["a"]\nwhy = "w"\nfloor = "0.9"', "floor='0.9', but should be a number"),
        ('["a"]\nwhy = "w"\nfloor = true', "floor=True, but should be"),
        ('["a"]\nwhy = "w"\nceiling = inf', "ceiling=inf, but should be a number"),
        ('["a"]\nwhy = "w"\nmin_agreement = 99', "min_agreement=99, but should be a number in 0..1"),
        ('["a"]\nwhy = "w"\nmin_sqnr_db = "40"', "min_sqnr_db='40', but should be a number, in dB"),
        ('["a"]\nwhy = "w"\nmin_cosine = 98.5', "min_cosine=98.5, but should be a number in -1..1"),
        ('["a"]\nwhy = "w"\nfloor = nan', "floor=nan, but should be"),
        ('["a"]\nwhy = "w"\nmax_drop = -1', "max_drop=-1, but should be a number from 0, in percentage points or"),
        ('["a"]\n' + GOOD + "confidence = 95", "confidence=95, but should be"),
        ('["a"]\n' + GOOD + "confidence = 1", "confidence=1, but should be"),
        ('["a"]\n' + GOOD + "max_ratio = 0", "max_ratio=0, but should be a number above 0"),
        ('["a"]\n' + GOOD + "expected_failure = true", "expected_failure=True, but should be a list of accuracy, "),
        ('["a"]\n' + GOOD + 'expected_failure = ["speed"]', "expected_failure=['speed'], but should be"),
        (
            '["a"]\n' + GOOD + 'expected_failure = ["accuracy without avx9"]',
            "each alone or as in 'accuracy without vnni'",
        ),
        ('["a"]\n' + GOOD + "confidence = 0.9", "confidence=0.9, but none of max_drop, min_speedup, max_ratio, max_ra"),
        ('["a"]\nfloor = 0.9', "has no why"),
        ('["a"]\nwhy = " "\nfloor = 0.9', "why=' ', but should be a sentence"),
        ('["a"]\nwhy = "w"\nmax_ratio = 1.0', "has none of floor, ceiling, max_drop, min_agreement, min_sqnr_db"),
        ("floor = 0.9", "floor=0.9, but should be a table"),
        ('["a"]\n' + GOOD + '["a"]\n' + GOOD, "cannot be read as TOML"),
        ("[", "cannot be read as TOML"),
    ],
)
def test_a_bad_file_is_told_in_one_line(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(BadData) as caught:
        written(tmp_path, text)
    assert told in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "bars.toml"))
    assert "\n" not in str(caught.value)


def test_absent_and_binary_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="not there"):
        load_bars(tmp_path / "none.toml")
    (tmp_path / "bars.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadData, match="cannot be read as TOML"):
        load_bars(tmp_path / "bars.toml")


@given(st.text(alphabet="ab*?[]!-", min_size=1, max_size=12), st.text(alphabet="ab-", min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_of_and_check_agree(pattern: str, case_id: str) -> None:
    bars = Bars(Path("bars.toml"), (Bar(pattern, "w", floor=0.5),))
    lines = bars.check([case_id])
    try:
        assert bars.of(case_id).pattern == pattern
        assert lines == []
    except PtqError:
        assert len(lines) == 2
    assert bars.bars[0].specificity <= len(pattern)


class Loss(Metric):
    name, unit, higher_is_better = "mse", "squared error", False


@pytest.mark.parametrize(
    ("keys", "metric", "told"),
    [
        ("floor = 87.2", Top1(), "floor=87.2, but top1 lies in 0..1"),
        ("floor = 0.1", Loss(), "floor=0.1, but less is better of mse: set a ceiling"),
        ("ceiling = 0.1", Top1(), "ceiling=0.1, but more is better of top1: set a floor"),
        ("max_drop = 101", Agreement(), "max_drop=101, but should be percentage points in 0..100"),
        ("floor = 200", Fidelity(), "floor=200, but sqnr lies in -150..150 dB"),
        ("max_drop = 3", Fidelity(), "max_drop=3, but sqnr is a distance to FP32 already: set min_sqnr_db or a floor"),
    ],
)
def test_a_key_that_no_metric_can_use_is_told(keys: str, metric: Metric, told: str, tmp_path: Path) -> None:
    bars = written(tmp_path, f'["digits-*"]\nwhy = "w"\n{keys}')
    with pytest.raises(BadData) as caught:
        bars.fitting(IDS[0], metric)
    assert str(caught.value) == f'{tmp_path / "bars.toml"}: ["digits-*"] {told}'


def test_what_a_metric_can_use_fits(tmp_path: Path) -> None:
    for keys, metric in (
        ("floor = 0.9\nmax_drop = 100", Top1()),
        ("ceiling = 1e9\nmax_drop = 1e6", Loss()),
        ("floor = 30", Fidelity()),
        ("min_sqnr_db = 30\nmin_agreement = 1", Fidelity()),
    ):
        bars = written(tmp_path, f'["digits-*"]\nwhy = "w"\n{keys}')
        assert bars.fitting(IDS[0], metric) == bars.bars[0]


@pytest.mark.parametrize(
    ("isa", "words"),
    [
        (("Linux x86_64", "avx2"), "expected without vnni"),
        (("Linux x86_64",), "expected without vnni"),
        (("Linux x86_64", "avx2", "avx512f", "avx512_vnni"), None),
        (("Linux x86_64", "avx2", "avx_vnni"), None),
        (("Linux aarch64", "asimddp"), None),
        (("Windows AMD64",), None),  # it does not say what the CPU has
        ((), None),
    ],
)
def test_a_failure_may_be_expected_on_a_cpu_alone(isa: tuple[str, ...], words: str | None) -> None:
    bar = Bar("*", "w", floor=0.5, expected_failure=("accuracy without vnni",))
    assert bar.expects("accuracy", isa) == words
    assert bar.expects("latency", isa) is None
    assert Bar("*", "w", floor=0.5, expected_failure=("accuracy",)).expects("accuracy", isa) == "expected"
