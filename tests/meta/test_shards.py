"""Shards: a part each, and one verdict over all, the same as that of one run; a shard that is lost is red."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from foreign import BARS, CONFTEST, LATENCY, STRUCTURE, SUITE, run, write_model
from hypothesis import given
from hypothesis import strategies as st

from ptq.cases import Case
from ptq.cli import main
from ptq.data.samples import ArraySamples
from ptq.engine.registry import Registry
from ptq.engine.remote import Remote
from ptq.engine.timetable import agreed, remember
from ptq.engine.workload import Workload
from ptq.errors import PtqError
from ptq.gate.shard import Shard, cut, group_of
from ptq.plugin import sharding

THREE_GROUPS = CONFTEST.replace('("none", "minmax")', '("none", "minmax", "entropy")')
ALL = ("1/3", "2/3", "3/3")


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/3", "a/b", "1/99999", "٢/٣"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PtqError, match="--ptq-shard"):
        Shard.parse(text)


@given(
    groups=st.dictionaries(st.text(max_size=3), st.lists(st.text(max_size=3), max_size=4), max_size=20),
    seconds=st.dictionaries(st.text(max_size=3), st.tuples(*[st.floats(0, 1e6)] * 2), max_size=20),
    of=st.integers(1, 12),
)
def test_groups_are_cut_whole_whatever_is_remembered(
    groups: dict[str, list[str]], seconds: dict[str, tuple[float, float]], of: int
) -> None:
    parts = cut(groups, seconds, of)
    assert parts.keys() == groups.keys()
    assert set(parts.values()) <= set(range(1, of + 1))
    assert parts == cut(dict(reversed(groups.items())), dict(reversed(seconds.items())), of)


def test_groups_are_packed_by_seconds() -> None:
    seconds = {"a": (30.0, 1.0), "b": (30.0, 1.0), "c": (0.0, 16.0), "d": (0.0, 16.0), "e": (0.0, 31.0)}
    parts = cut({"ab": ["a", "b"], "c": ["c"], "d": ["d"], "e": ["e"]}, seconds, 3)
    loads = [sorted(name for name, part in parts.items() if part == number) for number in (1, 2, 3)]
    assert sorted(loads) == [["ab"], ["c", "d"], ["e"]]  # 32 each: a and b share what calibrating took


def test_what_calibrates_together_stays_together(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    samples = ArraySamples(np.zeros((1, 8, 8, 1), np.float32))
    workload, registry = Workload("mine", tmp_path / "model.onnx", samples, samples), Registry()

    def group(workload: Workload, *fields: str) -> str:
        return group_of(Case("mine", "onnxruntime", *fields), workload, registry)

    assert group(workload, "int8", "minmax") == group(workload, "u8s8", "minmax", "channel")
    assert (
        group(workload, "int8", "entropy") == group(workload, "u8s8", "percentile") != group(workload, "int8", "minmax")
    )
    assert group(workload, "int8", "minmax", "tensor", "auto") == group(workload, "int8", "entropy")
    assert group(workload, "fp32") != group(workload, "int8", "nobodys") != group(workload, "uint8", "nobodys")
    unknown = Workload("mine", lambda: tmp_path / "model.onnx", samples, samples)
    assert group(unknown, "int8", "minmax") == group(unknown, "int8", "entropy")  # its batch may be fixed


def test_all_that_ask_agree_on_the_first_plan(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    first, second = (Remote(str(tmp_path / "shared")) for _ in range(2))
    remember(first, {"a": (1.0, 2.0), "b": (0.0, 3.0)})
    assert agreed(first, "abc", ["a", "c"], 3) == {"a": (1.0, 2.0)}
    remember(second, {"a": (9.0, 9.0), "b": (0.0, 3.0)})
    assert agreed(second, "abc", ["c", "a"], 3) == {"a": (1.0, 2.0)}
    assert agreed(second, "abd", ["a", "c"], 3) == {"a": (9.0, 9.0)}
    for note in (tmp_path / "shared" / "seconds").iterdir():
        note.write_text('{"a": [NaN, -1]}')
    assert agreed(first, "new", ["a"], 3) == {}
    (tmp_path / "file").write_text("in the way")
    assert agreed(Remote(str(tmp_path / "file" / "x")), "abc", ["a"], 3) == {}


@pytest.fixture
def shards(repository: pytest.Pytester) -> Callable[..., list[pytest.RunResult]]:
    """Runs shards of the foreign repository, each to a report named after it."""
    (repository.path / "conftest.py").write_text(THREE_GROUPS)
    (repository.path / "bars.toml").write_text(BARS.replace("0.9", "0.3"))

    def runs(*parts: str, arguments: tuple[str, ...] = ()) -> list[pytest.RunResult]:
        return [
            run(repository, "--ptq-shard", part, "--ptq-json", f"report-{part[0]}.json", *arguments) for part in parts
        ]

    return runs


def merge(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """The exit code of `ptq merge`, and its lines."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["merge", *arguments])
    said = capsys.readouterr()
    return int(str(left.value.code)), [*said.out.splitlines(), *said.err.splitlines()]


REPORTS = ("report-1.json", "report-2.json", "report-3.json")


@pytest.mark.parametrize("floor", ["0.3", "1.0"])
def test_shards_give_what_one_run_gives(
    repository: pytest.Pytester, shards: Callable[..., Any], capsys: pytest.CaptureFixture[str], floor: str
) -> None:
    """With `floor` 1 every case is red: no model knows a wrong label."""
    labels = np.load("labels.npy")
    labels[95] = (labels[95] + 1) % 3
    np.save("labels.npy", labels)
    (repository.path / "bars.toml").write_text(BARS.replace("0.9", floor) + "min_integer_share = 0.1\n")
    (repository.path / "test_mine.py").write_text(SUITE + STRUCTURE + "def test_own():\n    pass\n")
    whole = run(repository, "--ptq-json", "whole.json", "--ptq-html", "whole.html")
    passed = [result.parseoutcomes().get("passed", 0) for result in shards(*ALL)]
    assert all(passed)
    assert sum(passed) == whole.parseoutcomes()["passed"]
    code, said = merge(capsys, *REPORTS, "--json", "merged.json", "--html", "merged.html")
    assert code == whole.ret == (0 if floor == "0.3" else 1)
    for name in ("whole.json", "whole.html"):
        assert Path(name).read_bytes() == Path(name.replace("whole", "merged")).read_bytes()
    assert any("min_speedup" in line or "verdict" in line for line in said)
    failed = [line for line in whole.outlines if line.startswith("FAILED") and "test_accuracy" in line]
    assert len([line for line in said if line.startswith("FAILED") and "test_accuracy" in line]) == len(failed)


def test_each_way_to_lose_a_shard_is_red(
    repository: pytest.Pytester, shards: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """``--ptq-shard`` three times; then one is missing, twice, of another commit, other options, another size, or cut
    by another plan; or what it should have run did not end."""
    assert [result.ret for result in shards(*ALL)] == [0, 0, 0]
    assert merge(capsys, *REPORTS)[0] == 0

    def red(words: str, *reports: str) -> None:
        code, said = merge(capsys, *reports)
        assert code == 1
        assert any(words in line for line in said), said

    red("1 of 3 shards are missing: 2", "report-1.json", "report-3.json")
    red("selected tests are in no shard", "report-1.json", "report-3.json")
    red("shard 2/3 is there 2 times", *REPORTS, shutil.copy("report-2.json", "again.json"))
    for number in (2, 3):  # a majority of another commit is no better
        content = json.loads(Path(f"report-{number}.json").read_text())
        content["shard"]["commit"] = "abc"
        Path(f"abc-{number}.json").write_text(json.dumps(content))
    red("are of another commit", "report-1.json", "abc-2.json", "abc-3.json")
    for change, words in CHANGES:
        content = json.loads(Path("report-2.json").read_text())
        change(content)
        Path("other.json").write_text(json.dumps(content))
        red(words, "report-1.json", "other.json", "report-3.json")


def _set(*where: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name in where[:-1]:
            content = content[name]
        content[where[-1]] = to

    return change


CHANGES: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (_set("shard", "commit", to="abc"), "are of another commit (abc, None)"),
    (_set("shard", "options", "strict", to=True), "are of another options (strict=True, strict=False)"),
    (_set("shard", "plan", to="abc"), "are of another plan"),
    (_set("shard", "of", to=4), "are of another number of shards"),
    (_set("shard", "cases", to=[]), "are of another cases"),
    (_set("shard", "whole", to=["x"]), "are of another selection of tests"),
    (_set("shard", "ran", to=[]), "did not come to an end"),
    (_set("shard", "complaints", to=["the test swallows it"]), "the test swallows it"),
    (_set("shard", "exit", to=1), ""),
    (_set("environment", "libraries", "numpy", to="1.0"), "ran with libraries numpy 1.0"),
]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("shard"),
        _set("shard", to=[]),
        _set("shard", "number", to="1"),
        _set("shard", "cases", to=[["a"]]),
        _set("shard", "cases", to=[["A", "b", "c", "d", "e", "f"]]),
        _set("shard", "options", "bars", to="/etc/passwd"),
    ],
)
def test_a_report_that_is_no_shards_is_one_line(
    repository: pytest.Pytester,
    shards: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[dict[str, Any]], object],
) -> None:
    shards("1/1", arguments=("-k", "fp32"))
    content = json.loads(Path("report-1.json").read_text())
    damage(content)
    Path("report-1.json").write_text(json.dumps(content))
    code, said = merge(capsys, "report-1.json")
    assert code in (1, 2)
    assert len([line for line in said if "report-1.json: " in line or "/etc/passwd" in line]) == 1, said


def test_what_the_whole_is_held_to_is_held_by_merge_alone(
    repository: pytest.Pytester, shards: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with (repository.path / "bars.toml").open("a") as bars:
        bars.write('["mine-onnxruntime-u8s8-minmx*"]\nfloor = 0.1\nwhy = "renamed"\n')
    demanded = ("--ptq-require", "mine", "--ptq-require", "yours", "--ptq-min-cases", "99", "--ptq-strict")
    assert [result.ret for result in shards(*ALL, arguments=demanded)] == [0, 0, 0]
    code, said = merge(capsys, *REPORTS)
    assert code == 1
    red = [line for line in said if line.startswith("ptq: ")]
    for words in (
        "--ptq-require yours",
        "--ptq-min-cases 99: only 13",
        "u8s8-minmx*' matches none",
        "have no reference",
    ):
        assert len([line for line in red if words in line]) == 1, said
    assert not [line for line in red if "--ptq-require mine" in line]
    (repository.path / "bars.toml").write_text(BARS)
    assert merge(capsys, *REPORTS)[0] == 1  # other bars than the shards had


def test_a_shard_with_nothing_to_do_is_green_and_counts(
    repository: pytest.Pytester, shards: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    results = shards("1/2", "2/2", arguments=("-k", "minmax"))
    assert [result.ret for result in results] == [0, 0]
    results[1].assert_outcomes(deselected=13)
    assert merge(capsys, *REPORTS[:2])[0] == 0
    assert merge(capsys, REPORTS[0])[0] == 1
    assert {result.ret for result in shards("1/2", "2/2", arguments=("-k", "nothing"))} == {5}
    assert merge(capsys, *REPORTS[:2])[0] == 5


def test_a_shard_says_what_it_needs(shards: Callable[..., Any], repository: pytest.Pytester) -> None:
    for arguments, words in (
        (("--ptq-shard", "1/2"), "needs --ptq-json"),
        (("--ptq-shard", "3/2", "--ptq-json", "x.json"), "should be NUMBER/OF"),
        (("--ptq-shard", "1/2", "--ptq-json", "x.json", "--ptq-update"), "cannot --ptq-update"),
    ):
        result = run(repository, *arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert any(words in line for line in result.errlines), result.errlines


def test_a_fault_of_the_bars_is_told_in_one_line(repository: pytest.Pytester, shards: Callable[..., Any]) -> None:
    (repository.path / "bars.toml").write_text("x")
    (result,) = shards("1/2")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    said = [line for line in result.outlines if "bars.toml: cannot be read as TOML" in line]
    assert said
    assert not any("INTERNALERROR" in line for line in result.outlines + result.errlines)


def test_workers_take_the_same_part(repository: pytest.Pytester, shards: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    (repository.path / "conftest.py").write_text(THREE_GROUPS)
    own: list[Mapping[str, Any]] = []
    for more in ((), ("-n", "2")):
        shards("2/3", arguments=(*more, "--ptq-store", str(tmp_path / "shared")))
        own.append(json.loads((repository.path / "report-2.json").read_text())["shard"])
    assert own[0] == own[1]
    assert own[0]["own"]


def test_latency_on_a_shard_that_shares_its_machine_is_refused(
    repository: pytest.Pytester, shards: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "_NEIGHBOURS", tmp_path / "neighbours")
    (repository.path / "test_mine.py").write_text("import pytest\n" + LATENCY)
    (tmp_path / "neighbours").mkdir()
    dead = tmp_path / "neighbours" / "12.lock"
    dead.touch()
    with FileLock(tmp_path / "neighbours" / "123.lock"):
        (result,) = shards("1/1", arguments=("-m", "latency", "-k", "uint8 and minmax and not channel"))
    assert result.ret == 1
    assert any("shares its machine (process 123" in line for line in result.outlines), result.outlines
    assert not dead.exists()
    assert {path.name for path in (tmp_path / "neighbours").iterdir()} <= {"123.lock"}
