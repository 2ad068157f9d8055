"""ptq.report: the page, the summary and the diff say what the results say, and nothing gets out of them as markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from foreign import LATENCY, STRUCTURE, SUITE, run
from hypothesis import given, settings
from hypothesis import strategies as st
from some_report import HOSTILE, LOSS, Reader, row, some, time

from ptq.cases import FP32
from ptq.cli import commands
from ptq.errors import BadData
from ptq.gate.result import FAIL
from ptq.report import html, markdown
from ptq.report import json as schema
from ptq.report.heatmap import MOST_CLASSES, heatmap, shade
from ptq.report.json import load, report
from ptq.report.json import write as write_json
from ptq.report.pareto import front
from ptq.report.scatter import Point, axis, scatter


def test_the_page_says_what_the_results_say() -> None:
    read = Reader(html.page(some()))
    words = " ".join(read.text.split())
    for each in ("onnxruntime-u8s8-minmax", "0.9450", "+0.50", "-0.50 to +1.50", "400", "115", "1.67", "unresolved"):
        assert each in words, each
    assert "int8: top1 0.8 < floor 0.9" in words
    assert "int8 is significantly worse than its reference" in words
    assert "1 case not installed: torch_x86 (pip install 'ptq[torch]')" in words
    assert "1 fail 1 not installed 3 pass 1 unresolved" in words
    assert "avx2" in words
    assert read.tags.count("figure") == 2  # against size and against time
    assert words.count("dashed: the Pareto front; bars: intervals") == 2
    assert "the size of the artifact onnxruntime-u8s8-minmax: 0.9450 at 0.6 onnxruntime-fp32: 0.9500 at 1" in words
    assert words.count("1.67 1.63 to 1.70") == 2  # u8s8's timing is its graph's: entropy's as well
    assert "int8: 1.4 > 1.0" in words
    assert "digits-onnxruntime-u8s8-minmax 1 base 1.010 0.990 to 1.030 1.01 1 9 of 9 Conv in integer pass" in words
    assert (
        words.index("Why not pass") < words.index("onnxruntime-u8s8-minmax 0.9450") < words.index("What accuracy costs")
    )


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
    report = load(repository.path / "o.json")
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


def test_the_page_asks_for_nothing_and_runs_only_its_own_script() -> None:
    text = html.page(some())
    read = Reader(text)
    assert not {"link", "img", "iframe", "object", "base"} & set(read.tags)
    links = [
        value for name, value in read.attributes if name in ("src", "href", "srcset", "action") or name[:2] == "on"
    ]
    assert all(str(value).startswith("#") for value in links)
    assert "url(" not in text
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == read.tags.count("script") == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert ("content", policy) in read.attributes


def test_the_page_says_all_that_is_known_of_each_case() -> None:
    counted = {
        "id": row()["id"], "integer": {"Conv": 3}, "floating": {"Gemm": 1}, "stray": 2, "float_nodes": ["model/last"],
        "simulated": None, "cause": "int8 activations", "weight_bytes": {"int8": 77360},
    }  # fmt: skip
    known = row(
        correct=360,
        fp32_correct=380,
        calibration={"n": 1000, "seed": 42, "method": "minmax"},
        bar={"floor": 0.9, "why": "the product needs it"},
    )
    layers = {
        row()["id"]: {
            "sentence": "conv1 is bad",
            "layers": [{"name": "conv1", "sqnr_db": 12.34, "local_sqnr_db": None}],
        }
    }
    words = " ".join(Reader(html.page(report([known, row("uint8")], {}, structure=[counted]), layers)).text.split())
    for each in (
        "reason fine", "right 360 of 400, FP32 380", "in integer Conv 3 in float Gemm 1 float nodes model/last",
        "likely cause int8 activations", "calibrated method minmax, n 1000, seed 42", "why the product needs it",
        "SQNR by layer conv1 is bad layer SQNR, dB alone, dB conv1 12.3",
        "calibrated not here: the artifact was made elsewhere",
    ):  # fmt: skip
        assert each in words, each
    assert words.count("SQNR by layer") == 1


def test_the_report_command_draws_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(Path("o.json"), some())
    case = "digits-onnxruntime-u8s8-minmax"
    Path("l.json").write_text(json.dumps({"case": case, "layers": [{"name": "conv1", "sqnr_db": 12.5}]}))

    def draw(*arguments: str) -> Any:
        return CliRunner().invoke(commands(), ["report", *arguments], standalone_mode=False)

    done = draw("o.json", "-o", "o.html", "--layers", "l.json")
    assert done.output.startswith("wrote o.html (")
    assert "conv1" in Path("o.html").read_text()
    for content in ("[1]", '{"case": 1}', json.dumps({"case": case, "layers": [{"name": "conv1", "sqnr_db": "12"}]})):
        Path("l.json").write_text(content)
        error = draw("o.json", "-o", "o.html", "--layers", "l.json").exception
        assert isinstance(error, BadData)
        assert str(error).startswith("l.json: not the SQNR of layers (")
    assert "itself" in str(draw("o.json", "-o", "o.json").exception)
    assert "nothing to write" in str(draw("o.json").exception)


def test_figures_for_github_action_benchmark_are_smaller_when_better(tmp_path: Path) -> None:
    write_json(tmp_path / "o.json", some())
    command = ["report", str(tmp_path / "o.json"), "--benchmark", str(tmp_path / "b.json")]
    CliRunner().invoke(commands(), command, standalone_mode=False, catch_exceptions=False)
    found = {each["name"]: each for each in json.loads((tmp_path / "b.json").read_text())}
    assert all(
        {"name", "unit", "value"} <= set(each) <= {"name", "unit", "value", "range", "extra"} for each in found.values()
    )
    assert found["digits-onnxruntime-int8-minmax drop"] == {
        "name": "digits-onnxruntime-int8-minmax drop", "unit": "pp", "value": pytest.approx(15.0),
        "range": "+14.00 to +16.00", "extra": "top1 0.8000, n=400, fail",
    }  # fmt: skip
    assert found["digits-onnxruntime-u8s8-minmax size"]["value"] == 115_000
    assert found["digits-onnxruntime-u8s8-minmax time, batch 1"]["unit"] in ("time / fp32 time", "time / base time")
    assert not [name for name in found if "-fp32 " in name]


def test_hostile_words_stay_words() -> None:
    hostile = some()
    for each in hostile["results"]:
        each["reason"] = each["backend"] = each["id"] = each["metric"] = each["unit"] = HOSTILE
        each["per_class"] = each["fp32_per_class"] = {HOSTILE: 0.5}
        each["workload"] = HOSTILE
    for each in hostile["latency"]:
        each["id"] = each["against"] = each["executed"] = HOSTILE
        each["stands_for"] = [HOSTILE]
    hostile["latency"].append(time(0.5, against=FP32, stands_for=[HOSTILE]))
    hostile["environment"] = {HOSTILE: HOSTILE}
    text = html.page(hostile)
    read = Reader(text)
    assert read.tags.count("script") == 1  # its own
    assert "img" not in read.tags
    assert not [name for name, _ in read.attributes if name in ("src", "onerror")]
    assert read.text.count("alert(1)") > 20
    assert "heat" in dict(read.attributes).values() or ("class", "heat") in read.attributes
    assert "\x00" not in text
    assert "\x1b" not in text
    lines = markdown.summary(hostile)
    assert "<script" not in lines.replace("\\<", "")


PLAIN = html.page(report([row(method=name, reason="a", verdict=FAIL) for name in ("one", "two")], {"a": "a"}))


@given(st.text(max_size=40))
@settings(max_examples=40, deadline=None)
def test_any_text_is_text_on_a_page(text: str) -> None:
    rows = [row(method=name, reason=text, metric=text, unit=text, verdict=FAIL) for name in ("one", "two")]
    made = html.page(report(rows, {text: text}))
    assert set(Reader(made).tags) <= set(Reader(PLAIN).tags)
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


def test_the_front_of_a_loss_is_below() -> None:
    points = [Point(1.0, 0.5, "int8", "a"), Point(2.0, 0.9, "int8", "b"), Point(3.0, 0.2, "int8", "c")]
    assert [point.label for point in scatter(points, "size", "mse").best] == ["a", "b"]
    assert [point.label for point in scatter(points, "size", "mse", higher_is_better=False).best] == ["a", "c"]


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=10))
@settings(max_examples=200, deadline=None)
def test_an_axis_holds_its_values_with_a_few_ticks(values: list[float]) -> None:
    made = axis(values, 100, 20)
    assert all(20 <= made.at(value) <= 100 for value in values)
    assert made.low < min(values) <= max(values) < made.high
    assert 2 <= len(made.ticks) <= 7
    assert all(made.low <= each <= made.high for each in made.ticks)


def test_the_heat_map_shows_the_classes_that_moved_most() -> None:
    then = {f"class{each}": 0.9 for each in range(80)}
    now = {**then, "class70": 0.5, "class3": 0.95}
    moved = row(per_class=now, fp32_per_class=then)
    text = Reader(html.page(report([moved], {}))).text
    assert "+40.0" in text
    assert "-5.0" in text
    assert f"The {MOST_CLASSES} of 80 classes that moved most." in text
    assert heatmap([row(per_class={})]) is None
    gained = heatmap([{**moved, "unit": "dB", "higher_is_better": False}])  # a loss that fell is better
    assert gained is not None
    assert [cell.text for cell in gained.cells[0] if cell and cell.text != "0"] == ["+0.05", "-0.4"]
    assert gained.scale == "0.4"
    assert (shade(0, 5), shade(5, 5), shade(-9, 5)) == ("#ffffff", "#b2182b", "#2166ac")


def test_the_summary_is_a_table_after_the_failures(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    markdown.append(path, some())
    lines = path.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[3].startswith("- ship digits-onnxruntime-u8s8-minmax: drop +0.50 pp")
    assert "1 fail, 1 not installed, 3 pass, 1 unresolved" in lines
    failure = next(each for each in lines if each.startswith("- int8: top1 0.8"))
    head = next(each for each in lines if each.startswith("| case"))
    assert lines.index(failure) < lines.index(head)
    assert (
        "| digits-onnxruntime-u8s8-minmax | 0.9450 | 0.9500 | +0.50 pp | -0.50 … +1.50 | 400 | 100% | 115 | ✅ pass |"
        in lines
    )
    assert {each.count("|") for each in lines if each.startswith("| digits")} == {8, 10}
    race = "| digits-onnxruntime-int8-minmax | 1 | fp32 | 1.400 | 1.372 … 1.428 | 9 of 9 Conv in integer | ❌ fail |"
    assert race in lines
    assert "- 1 case not installed: torch\\_x86 (pip install 'ptq\\[torch\\]')" in lines


def test_the_markdown_and_the_page_say_where_truth_is_missing_and_units() -> None:
    content = report([{**LOSS, "truth": "float model"}], {})
    read = " ".join(Reader(html.page(content)).text.split())
    summary = markdown.summary(content)
    for text in (read, summary):
        assert "digits: no truth was given: values are against the float model's own answers" in text
        assert "squared error" in text
    assert "| 0.1 squared error | 0.1 | +0 squared error | -0.01 … +0.01 |" in summary
