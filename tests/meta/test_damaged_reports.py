"""A damaged report is one line, or an answer; never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from foreign import LATENCY, STRUCTURE, SUITE, run
from hypothesis import given, settings
from hypothesis import strategies as st
from some_report import row

from ptq.errors import BadData
from ptq.gate.result import Result
from ptq.report import html, markdown
from ptq.report.diff import diff
from ptq.report.json import load, report
from ptq.report.table import table

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
