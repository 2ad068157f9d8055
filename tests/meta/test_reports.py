"""ptq.report: the page, the summary and the diff say what the results say, and nothing gets out of them as markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from foreign import LATENCY, STRUCTURE, SUITE, run
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.cases import FP32, Case
from ptq.cli import commands
from ptq.report import html, markdown
from ptq.report import json as schema
from ptq.report.diff import diff
from ptq.report.element import element, serialize
from ptq.report.heatmap import MOST_CLASSES, heatmap, shade
from ptq.report.json import report
from ptq.report.json import write as write_json
from ptq.report.pareto import front
from ptq.report.scatter import axis
from ptq.result import FAIL, NOT_INSTALLED, PASS, UNRESOLVED, Result

HOSTILE = "</td><script>alert(1)</script><img src=http://x.invalid/a onerror=b> & \" ' \x00\x1b[31m"


def row(dtype: str = "int8", wrong: int = 40, method: str = "minmax", **more: Any) -> dict[str, Any]:
    """A judged result as the JSON report has it, 400 images."""
    import base64

    right = np.arange(400) >= wrong
    case = Case("digits", "onnxruntime", dtype, "none" if dtype == FP32 else method)
    value = float(right.mean())
    made = Result(
        case,
        "top1",
        PASS,
        "fine",
        n=400,
        value=value,
        fp32_value=0.95,
        drop=100 * (0.95 - value),
        interval=(100 * (0.95 - value) - 1, 100 * (0.95 - value) + 1),
        per_class={"dog": value, "cat": 0.9},
        fp32_per_class={"dog": 0.95, "cat": 0.9},
        size_bytes=322_000 if dtype == FP32 else 115_000,
        fp32_size_bytes=322_000,
        integer_share=None if dtype == FP32 else 1.0,
        evaluation="e1",
        outcomes=base64.b64encode(np.packbits(right).tobytes()).decode(),
    )
    return {**made.as_json(), **more}


def time(ratio: float, dtype: str = "int8", **more: Any) -> dict[str, Any]:
    """A timing as the JSON report has it, within 2 %."""
    times = {"ratio": ratio, "low": 0.98 * ratio, "high": 1.02 * ratio, "reference_ms": 1.0, "other_ms": ratio}
    name = f"digits-onnxruntime-{dtype}-"
    case = {"id": f"{name}minmax", "stands_for": [f"{name}minmax", f"{name}entropy"], "batch": 1, "against": "fp32"}
    return {**case, **times, "executed": "9 of 9 Conv in integer", "verdict": PASS, "reason": "", **more}


def some() -> dict[str, Any]:
    worse = {"value": 0.95, "worse": True, "line": "int8 is significantly worse than its reference"}
    absent = Result(
        Case("digits", "torch_x86", "int8", "minmax"), "top1", NOT_INSTALLED, "not installed: pip install 'ptq[torch]'"
    )
    rows = [
        row(FP32, 20),
        row(
            "int8",
            80,
            verdict=FAIL,
            red=True,
            reason="int8: top1 0.8 < floor 0.9",
            reference=worse,
        ),
        row("u8s8", 22, reference={"value": 0.945, "worse": False, "line": ""}),
        row("uint8", 30, verdict=UNRESOLVED, reason="uint8: about 900 images would resolve it"),
        row("u8s8", 26, method="entropy"),
        absent.as_json(),
    ]
    races = [time(1.4, verdict=FAIL, reason="int8: 1.4 > 1.0"), time(0.6, "u8s8"), time(1.01, "u8s8", against="base")]
    return report(rows, {"python": "3.11", "isa": ["avx2"], "libraries": {"numpy": "2.4"}}, latency=races)


class Reader(HTMLParser):
    """What a page holds: tags, attributes, visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_the_page_says_what_the_results_say() -> None:
    read = Reader(html.page(some()))
    words = " ".join(read.text.split())
    for each in ("onnxruntime-u8s8-minmax", "0.9450", "+0.50", "-0.50 to +1.50", "400", "115", "1.67", "unresolved"):
        assert each in words, each
    assert "int8: top1 0.8 < floor 0.9" in words
    assert "int8 is significantly worse than its reference" in words
    assert "digits, torch_x86: 1 not installed: pip install 'ptq[torch]'" in words
    assert "1 fail 1 not installed 3 pass 1 unresolved" in words
    assert "avx2" in words
    assert read.tags.count("figure") == 2  # against size and against time
    assert words.count("dashed: the Pareto front") == 2
    assert "the size of the artifact onnxruntime-u8s8-minmax: 0.9450 at 0.6 onnxruntime-fp32: 0.9500 at 1" in words
    assert words.count("1.67 1.63 to 1.70") == 2  # u8s8's timing is its graph's: entropy's as well
    assert "int8: 1.4 > 1.0" in words
    assert "digits-onnxruntime-u8s8-minmax 1 base 1.010 0.990 to 1.030 1.01 1 9 of 9 Conv in integer pass" in words
    assert words.index("Why not pass") < words.index("What accuracy costs")


def documented(section: str) -> set[str]:
    """The fields the schema's documentation lists for a section: the names that open its bullets' sentences."""
    text = schema.__doc__ or ""
    _, _, rest = text.partition(f"\n``{section}``\n")
    body = re.split(r"\n``\w+``\n", rest)[0]
    bullets = " ".join(body.split("\n\n", 1)[1].split()).split(" - ")
    names = [name for bullet in bullets for name in re.findall(r"(?:^|[;.] |^- )``([a-z0-9_, ]+)``:?", bullet)]
    return {each for some in names for each in some.split(", ")}


def test_the_schema_documents_every_field_of_a_real_report(repository: pytest.Pytester) -> None:
    (repository.path / "test_mine.py").write_text(SUITE + STRUCTURE + LATENCY)
    run(repository, "--ptq-update", "-k", "accuracy and u8s8").assert_outcomes(passed=2)
    run(repository, "-k", "u8s8 and not batch64", "--ptq-json", "o.json").assert_outcomes(passed=6)
    report = schema.read(repository.path / "o.json")
    assert set(report) == set(re.findall(r"\n``(\w+)``\n", schema.__doc__ or ""))
    for section in ("results", "latency", "structure"):
        assert report[section]
        for each in report[section]:
            assert set(each) == documented(section), section
    environment = re.search(r"says of the machine and the libraries: ``([^`]+)``", schema.__doc__ or "")
    assert environment is not None
    assert set(report["environment"]) == set(" ".join(environment[1].split()).split(", "))
    assert {each["reference"]["worse"] for each in report["results"]} == {False}
    assert all(each["latency"] and each["seconds"] and each["notes"] for each in report["results"])


def test_the_page_asks_for_nothing() -> None:
    read = Reader(html.page(some()))
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(read.tags)
    assert not [
        each for each in read.attributes if each[0] in ("src", "href", "srcset", "action") or each[0][:2] == "on"
    ]
    assert "url(" not in html.page(some())
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in read.attributes


def test_hostile_words_stay_words() -> None:
    hostile = some()
    for each in hostile["results"]:
        each["reason"] = each["backend"] = each["id"] = HOSTILE
        each["per_class"] = each["fp32_per_class"] = {HOSTILE: 0.5}
        each["workload"] = HOSTILE
    hostile["environment"] = {HOSTILE: HOSTILE}
    text = html.page(hostile)
    read = Reader(text)
    assert not {"script", "img"} & set(read.tags)
    assert "alert(1)" in read.text
    assert "\x00" not in text
    assert "\x1b" not in text
    lines = markdown.summary(hostile)
    assert "<script" not in lines.replace("\\<", "")


@given(st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_text_survives_an_element(text: str) -> None:
    made = serialize(element("p", text, title=text))
    assert set(Reader(made).tags) == {"p"}
    made.encode()


def test_an_empty_report_is_a_page() -> None:
    empty = report([], {})
    assert "No case." in Reader(html.page(empty)).text
    assert "no case" in markdown.summary(empty)


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    html.write(tmp_path / "report.html", some())
    assert (tmp_path / "report.html").read_text() == html.page(some())


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_nothing_beats_the_front_and_the_front_beats_the_rest(points: list[tuple[float, float]]) -> None:
    best = front(points)
    assert [points[each][0] for each in best] == sorted(points[each][0] for each in best)

    def covers(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] <= other[0] and one[1] >= other[1]

    for position, point in enumerate(points):
        covered = [each for each in best if covers(points[each], point)]
        assert covered == [position] if position in best else covered


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=10))
@settings(max_examples=100, deadline=None)
def test_an_axis_holds_its_values_with_a_few_ticks(values: list[float]) -> None:
    made = axis(values)
    assert made.low < min(values) <= max(values) < made.high
    assert 2 <= len(made.ticks) <= 7
    assert all(made.low <= each <= made.high for each in made.ticks)


def test_the_heat_map_shows_the_classes_that_moved_most() -> None:
    then = {f"class{each}": 0.9 for each in range(80)}
    now = {**then, "class70": 0.5, "class3": 0.95}
    made = heatmap([{"per_class": now, "fp32_per_class": then}], ["int8"])
    assert made is not None
    text = "".join(made.itertext())
    assert "+40.0" in text
    assert "-5.0" in text
    assert f"The {MOST_CLASSES} of 80 classes that moved most." in text
    assert heatmap([{"per_class": {}}], ["x"]) is None
    assert (shade(0, 5), shade(5, 5), shade(-9, 5)) == ("#ffffff", "#b2182b", "#2166ac")


def test_the_summary_is_a_table_after_the_failures(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    markdown.append(path, some())
    lines = path.read_text().splitlines()
    assert lines[0] == "before"
    assert "1 fail, 1 not installed, 3 pass, 1 unresolved" in lines
    failure = next(each for each in lines if each.startswith("- int8: top1 0.8"))
    head = next(each for each in lines if each.startswith("| case"))
    assert lines.index(failure) < lines.index(head)
    assert (
        "| digits-onnxruntime-u8s8-minmax | 0.9450 | 0.9500 | +0.50 | -0.50 … +1.50 | 400 | 100% | 115 | ✅ pass |"
        in lines
    )
    assert {each.count("|") for each in lines if each.startswith("| digits")} == {8, 10}
    race = "| digits-onnxruntime-int8-minmax | 1 | fp32 | 1.400 | 1.372 … 1.428 | 9 of 9 Conv in integer | ❌ fail |"
    assert race in lines
    assert "- digits: 1 not installed: pip install 'ptq\\[torch\\]'" in lines


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
    new = saved("new.json", [row(wrong=60), row("u8s8"), row("uint8", verdict=NOT_INSTALLED, reason="no backend")])
    run = CliRunner().invoke(commands(), ["diff", old, new], standalone_mode=False)
    assert run.return_value == 1
    lines = run.output.splitlines()
    assert lines[0].startswith("worse: digits-onnxruntime-int8-minmax: top1 0.9500 -> 0.8500")
    assert lines[1] == "vanished: digits-onnxruntime-uint8-minmax: not installed: no backend"
    assert lines[2].startswith("appeared: digits-onnxruntime-u8s8-minmax: pass, top1 0.9000")
    assert lines[3] == "1 worse, 0 better, 1 appeared, 1 vanished, 0 the same"
    assert CliRunner().invoke(commands(), ["diff", new, old], standalone_mode=False).return_value == 0
    assert json.loads(Path(old).read_text())["schema"] == "ptq/1"
