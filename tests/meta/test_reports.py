"""ptq.report: the page, the summary and the diff say what the results say, and nothing gets out of them as markup."""

from __future__ import annotations

import base64
import hashlib
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
from ptq.errors import BadData
from ptq.gate.result import FAIL, NOT_INSTALLED, PASS, UNRESOLVED, Result
from ptq.report import html, markdown
from ptq.report import json as schema
from ptq.report.diff import diff
from ptq.report.heatmap import MOST_CLASSES, heatmap, shade
from ptq.report.json import load, report
from ptq.report.json import write as write_json
from ptq.report.pareto import front
from ptq.report.scatter import Point, axis, scatter
from ptq.report.table import table

HOSTILE = "</td><script>alert(1)</script><img src=http://x.invalid/a onerror=b> & \" ' \x00\x1b[31m"


def row(dtype: str = "int8", wrong: int = 40, method: str = "minmax", **more: Any) -> dict[str, Any]:
    """A judged result as the JSON report has it, 400 images."""
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
        agreement=1 - abs(wrong - 20) / 400,
        sqnr_db=None if dtype == FP32 else 20.0,
        integer_share=None if dtype == FP32 else 1.0,
        evaluation="e1",
        outcomes=base64.b64encode(np.packbits(right).tobytes()).decode(),
    )
    return {**made.as_json(), **more}


def time(ratio: float, dtype: str = "int8", **more: Any) -> dict[str, Any]:
    """A timing as the JSON report has it, within 2 %."""
    times = {"ratio": ratio, "low": 0.98 * ratio, "high": 1.02 * ratio, "reference_ms": 1.0, "other_ms": ratio}
    name = f"digits-onnxruntime-{dtype}-"
    case = {
        "confidence": 0.99,
        "speedup": 1 / ratio,
        "id": f"{name}minmax",
        "stands_for": [f"{name}minmax", f"{name}entropy"],
        "batch": 1,
        "against": "fp32",
    }
    judged = {"executed": "9 of 9 Conv in integer", "verdict": PASS, "reason": "", "red": False}
    return {**case, **times, **judged, **more}


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
    races = [
        time(1.4, verdict=FAIL, red=True, reason="int8: 1.4 > 1.0"),
        time(0.6, "u8s8"),
        time(1.01, "u8s8", against="base"),
    ]
    return report(rows, {"python": "3.11", "isa": ["avx2"], "libraries": {"numpy": "2.4"}}, latency=races)


LOSS = row(
    metric="mse",
    unit="squared error",
    higher_is_better=False,
    outcomes=None,
    value=0.1,
    fp32_value=0.1,
    drop=0.0,
    interval=(-0.01, 0.01),
    per_class={},
)
"""A result whose metric is a loss."""


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


DELETE = "delete this"
VALUES = st.sampled_from(
    [DELETE, None, True, 0, -1, 3, 0.5, 1e308, -1e-300, 10**400, "", "x", "fail", "\x1b[2J", [], {}]
)
ODD = VALUES | st.text(max_size=8) | st.floats() | st.lists(st.integers(), max_size=3) | st.just("\ud800")


def mutated(content: Any, draw: Callable[[Any], Any]) -> None:
    """Put something odd somewhere."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = draw(st.sampled_from(keys))
        if isinstance(content[key], dict | list) and content[key] and draw(st.integers(0, 9)):
            content = content[key]
            continue
        odd = draw(ODD)
        if odd == DELETE:
            del content[key]
        else:
            content[key] = odd
        return


def read_all(path: Path, sound: dict[str, Any]) -> None:
    """Everything that is made of a report that can be read."""
    content = load(path)
    for found in (diff(content, sound), diff(sound, content), diff(content, content)):
        assert all(line.isprintable() for line in found.lines())
    html.page(content).encode()
    markdown.summary(content).encode()
    table([Result.from_json(row) for row in content["results"]], 100, timings=content["latency"]).encode()


def test_a_damaged_report_is_one_line_or_an_answer(repository: pytest.Pytester, tmp_path: Path) -> None:
    (repository.path / "test_mine.py").write_text(SUITE + STRUCTURE + LATENCY)
    run(repository, "-k", "u8s8 and not batch64", "--ptq-json", "o.json")
    sound, path = load(repository.path / "o.json"), tmp_path / "damaged.json"
    assert sound["results"]
    assert sound["latency"]
    refused = []

    @given(st.data())
    @settings(max_examples=300, deadline=None)
    def damage(data: st.DataObject) -> None:
        content = json.loads((repository.path / "o.json").read_text())
        for _ in range(data.draw(st.integers(1, 3))):
            mutated(content, data.draw)
        path.write_text(json.dumps(content))
        try:
            read_all(path, sound)
        except BadData as error:
            refused.append(str(error))

    damage()
    assert len(refused) > 100
    assert all(line.startswith(f"{path}: ") and line.isprintable() for line in refused)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"\xff\xfe", "not a ptq report"),
        (b"[" * 100_000, "not a ptq report"),
        (b"[]", "schema='list', but should be 'ptq/1'"),
        (b'{"schema": "ptq/2"}', "schema='ptq/2', but should be 'ptq/1'"),
        (b'{"schema": "ptq/1"}', "report has no 'environment', but should"),
    ],
)
def test_what_is_no_report_is_one_line(content: bytes, line: str, tmp_path: Path) -> None:
    (tmp_path / "o.json").write_bytes(content)
    with pytest.raises(BadData) as error:
        load(tmp_path / "o.json")
    assert line in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"n": "400"}, "results[0].n='400', but should be int"),
        ({"value": float("nan")}, "results[0].value=nan, but should be"),
        ({"value": None}, "verdict='pass', value=None, n=400 cannot be"),
        ({"verdict": "passed"}, "verdict='passed'"),
        ({"id": "other"}, "results[0].id='other', but should be 'digits-onnxruntime-int8-minmax'"),
        ({"backend": "a b"}, "case: backend='a b' should be made of"),
        ({"outcomes": "AAAA"}, "outcomes hold 24 bits, but should hold 400"),
        ({"interval": [1.0]}, "results[0].interval=[1.0], but should be"),
        ({"reference": {"value": 0.9, "worse": "no"}}, "results[0].reference.worse='no', but should be bool"),
        ({"per_class": {"cat": "0.9"}}, "results[0].per_class['cat']='0.9', but should be float"),
        ({"reason": "\ud800"}, "results[0].reason="),
    ],
)
def test_a_damaged_field_is_named(changed: dict[str, Any], line: str, tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text(json.dumps(report([row(**changed)], {})))
    with pytest.raises(BadData) as error:
        load(tmp_path / "o.json")
    assert line in str(error.value)


def test_a_report_of_an_earlier_ptq_is_read(tmp_path: Path) -> None:
    old = row()
    for name in ("unit", "higher_is_better", "truth"):
        del old[name]
    content = {"schema": "ptq/1", "environment": {}, "results": [old]}
    (tmp_path / "o.json").write_text(json.dumps(content))
    read = load(tmp_path / "o.json")["results"][0]
    assert (read["unit"], read["higher_is_better"], read["truth"]) == ("share", True, "given")
    content["results"] = [old, old]
    (tmp_path / "o.json").write_text(json.dumps(content))
    with pytest.raises(BadData, match="2 results, but only 1 different ids"):
        load(tmp_path / "o.json")


def test_the_markdown_and_the_page_say_where_truth_is_missing_and_units() -> None:
    content = report([{**LOSS, "truth": "float model"}], {})
    read = " ".join(Reader(html.page(content)).text.split())
    summary = markdown.summary(content)
    for text in (read, summary):
        assert "digits: no truth was given: values are against the float model's own answers" in text
        assert "squared error" in text
    assert "| 0.1 squared error | 0.1 | +0 squared error | -0.01 … +0.01 |" in summary
