"""The history: what is appended, what is marked as a change, and what is left to chance."""

from __future__ import annotations

import base64
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from foreign import run as run_pytest
from some_report import Reader, row, some

from ptq.cli import commands
from ptq.errors import BadData, PtqError
from ptq.metrics.paired import mcnemar
from ptq.report import history, trend
from ptq.report.changes import LEVEL, Series, series, threshold
from ptq.report.json import report

N = 932
Right = npt.NDArray[np.bool_]
ENVIRONMENT = {"platform": "Linux x86_64", "isa": ["avx2"], "libraries": {"onnxruntime": "1.32.0"}}


def past(number: int, right: dict[str, Right], machine: str = "avx2", evaluation: str = "e1") -> history.Past:
    """A run in which each case got `right`, a day after the one before."""
    rows = [
        row(
            method=name, n=len(bits), value=float(bits.mean()), evaluation=evaluation,
            id=f"digits-onnxruntime-int8-{name}",
            outcomes=base64.b64encode(np.packbits(bits).tobytes()).decode(),
        )
        for name, bits in right.items()
    ]  # fmt: skip
    date = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
    return history.past(report(rows, {**ENVIRONMENT, "isa": [machine]}), f"{number:02}" + "c" * 38, date)


def start(seed: int = 0) -> Right:
    return np.random.default_rng(seed).random(N) < 0.88


def flipped(right: Right, lose: int, win: int, seed: int) -> Right:
    """With `lose` images that were right wrong, and `win` that were wrong right."""
    generator, new = np.random.default_rng(seed), right.copy()
    new[generator.choice(np.flatnonzero(right), lose, replace=False)] = False
    new[generator.choice(np.flatnonzero(~right), win, replace=False)] = True
    return new


def twenty(others: int = 0) -> list[history.Past]:
    """20 runs: run 13 loses 12 images for good, run 17 swaps 30 evenly; `others` cases never change."""
    right, still, runs = start(), start(1), []
    for number in range(1, 21):
        if number == 13:
            right = flipped(right, 12, 0, number)
        if number == 17:
            right = flipped(right, 15, 15, number)
        runs.append(past(number, {"minmax": right, **{f"still{each}": still for each in range(others)}}))
    return runs


def marked(found: list[Series]) -> list[tuple[str, str, bool]]:
    return [(step.case, step.after.name[:2], step.worse) for each in found for step in each.changes]


@pytest.mark.parametrize("others", [0, 60])
def test_exactly_the_run_that_lost_images_is_marked(others: int) -> None:
    found = series(twenty(others))
    assert marked(found) == [("digits-onnxruntime-int8-minmax", "13", True)]
    assert [each.case for each in found if each.regression] == ["digits-onnxruntime-int8-minmax"]


def drifting(lose: int, win: int) -> list[history.Past]:
    """20 runs, each of which loses and wins so many images against the one before."""
    rights = [start()]
    for number in range(1, 20):
        rights.append(flipped(rights[-1], lose, win, number))
    return [past(number, {"minmax": right, "still": start(1)}) for number, right in enumerate(rights)]


def test_a_loss_of_one_image_a_run_is_marked_once_it_is_no_chance(tmp_path: Path) -> None:
    found = series(drifting(1, 0))
    case = "digits-onnxruntime-int8-minmax"
    assert marked(found) == [(case, "09", True), (case, "18", True)]  # nine images each: 2 / 2**9 < 0.005
    assert all(step.drift for each in found for step in each.changes)  # no run is marked against its neighbour
    assert series(drifting(1, 0)[:9])[0].changes == []
    line = command(str(saved(tmp_path, drifting(1, 0))), "--fail-on", "regression").output.splitlines()[0]
    assert f"at 09{'c' * 8} of 2026-01-10T00:00:00Z little by little since 00{'c' * 8}: 9 images lost, 0 won" in line


def test_a_case_that_wins_what_it_loses_does_not_drift() -> None:
    assert marked(series(drifting(1, 1))) == []


def test_many_cases_that_fall_at_once_are_all_marked() -> None:
    rights = {f"m{each}": start(each) for each in range(50)}
    runs = [past(number, rights) for number in range(8)]
    fallen = {name: flipped(right, 12, 0, 5) for name, right in rights.items()}
    runs += [past(number, fallen) for number in range(8, 10)]
    assert {(after, worse) for _, after, worse in marked(series(runs))} == {("08", True)}
    assert len(marked(series(runs))) == 50


@pytest.mark.parametrize("flips", [0, 1, 4, 30])
def test_a_history_in_which_nothing_changes_has_no_mark(flips: int) -> None:
    """50 runs of 3 cases whose images change sides at random, evenly on average."""
    base = {name: start(seed) for seed, name in enumerate(("one", "two", "three"))}
    runs = []
    for number in range(50):
        generator = np.random.default_rng(number)
        lost = generator.binomial(flips, 0.5, 3)
        moved = zip(base, map(int, lost), strict=True)
        runs.append(past(number, {name: flipped(base[name], lose, flips - lose, number) for name, lose in moved}))
    assert marked(series(runs)) == []


def test_noise_alone_is_marked_no_oftener_than_the_level_says() -> None:
    """Histories of 49 steps, each of 20 images that change sides by a fair coin."""
    generator, seen = np.random.default_rng(3), 0
    for _ in range(400):
        tests = [(20, mcnemar(int(lost), 20 - int(lost))) for lost in generator.binomial(20, 0.5, 49)]
        seen += threshold(tests) >= 0
    assert seen / 400 < 2.5 * LEVEL


def test_steps_that_cannot_tell_cost_no_power() -> None:
    twelve = (12, mcnemar(12, 0))
    assert threshold([twelve]) == threshold([twelve, *[(0, 1.0)] * 5000]) == threshold([twelve, *[(6, 1.0)] * 5000])
    assert threshold([twelve, *[(12, 1.0)] * 5000]) == -1  # 5,000 that could have been so small make one likely
    assert threshold([]) == -1


def test_what_is_made_good_is_no_regression_and_what_is_better_is_none() -> None:
    good = start()
    bad = flipped(good, 20, 0, 1)
    fell = [past(1, {"a": good}), past(2, {"a": bad})]
    assert series(fell)[0].regression is not None
    rose = [*fell, past(3, {"a": good})]
    assert [worse for _, _, worse in marked(series(rose))] == [True, False]
    assert series(rose)[0].regression is None
    other = [*fell, past(3, {"a": bad}, evaluation="e2")]  # other images: a new beginning
    assert series(other)[0].regression is None


def test_other_images_and_other_machines_are_not_compared() -> None:
    good, bad = start(), flipped(start(), 40, 0, 1)
    assert marked(series([past(1, {"a": good}), past(2, {"a": bad}, evaluation="e2")])) == []
    apart = series([past(1, {"a": good}), past(2, {"a": bad}, machine="avx512_vnni")])
    assert [(each.machine, len(each.runs)) for each in apart] == [
        ("Linux x86_64 avx2", 1),
        ("Linux x86_64 avx512_vnni", 1),
    ]
    assert marked(apart) == []


def saved(folder: Path, runs: list[history.Past]) -> Path:
    for each in runs:
        history.append(folder, each)
    return folder


def command(*arguments: str) -> Any:
    return CliRunner().invoke(commands(), ["history", *arguments], standalone_mode=False)


def test_the_command_draws_names_and_fails(tmp_path: Path) -> None:
    folder = saved(tmp_path / "runs", twenty())
    done = command(str(folder), "--fail-on", "regression")
    assert done.return_value == 1
    lines = done.output.splitlines()
    assert lines[0].startswith("worse: digits-onnxruntime-int8-minmax: top1 0.8")
    assert f"at 13{'c' * 8} of 2026-01-14T00:00:00Z: 12 images lost, 0 won, p=0.00049, n=932" in lines[0]
    assert lines[-1] == "20 runs, 1 lines of cases, 1 changes, 1 regressions"
    text = (folder / "history.html").read_text()
    read = Reader(text)
    assert read.tags.count("polyline") == 1
    assert read.tags.count("circle") == 20
    assert text.count('class="fail" tabindex="0"') == 1
    assert not {"script", "img", "link"} & set(read.tags)
    assert command(str(folder)).return_value == 0
    assert command(str(folder), "--fail-on", "regression", "--since", "13ccc").return_value == 0  # accepted
    assert isinstance(command(str(folder), "--since", "99").exception, PtqError)


def test_the_command_is_green_where_nothing_changed(tmp_path: Path) -> None:
    folder = saved(tmp_path, [past(number, {"a": start()}) for number in range(50)])
    done = command(str(folder), "--fail-on", "regression", "-o", str(tmp_path / "o.html"))
    assert done.return_value == 0
    assert "No case is worse than it was." in (tmp_path / "o.html").read_text()


def test_a_run_of_pytest_appends_one_line(repository: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in history.COMMITS:
        monkeypatch.delenv(name, raising=False)
    run_pytest(repository, "-k", "fp32 or u8s8", "--ptq-history", "runs")
    monkeypatch.setenv("GITHUB_SHA", "abc")
    run_pytest(repository, "-k", "fp32 or u8s8", "--ptq-history", "runs")
    lines = (repository.path / "runs" / "history.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert (first["schema"], first["commit"], second["commit"]) == ("ptq-history/1", "", "abc")
    assert first["cases"] == second["cases"]
    assert set(first["cases"]) == {
        f"mine-onnxruntime-{each}" for each in ("fp32", "u8s8-minmax", "u8s8-minmax-channel")
    }
    assert marked(series(history.load(repository.path / "runs"))) == []


def test_a_history_that_cannot_be_written_turns_the_run_red(repository: pytest.Pytester) -> None:
    (repository.path / "runs").write_text("a file")
    result = run_pytest(repository, "-k", "fp32", "--ptq-history", "runs")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ptq: --ptq-history *runs*"])


def test_a_url_is_written_and_read_through_fsspec() -> None:
    pytest.importorskip("fsspec")
    url = "memory://some/runs"
    for each in twenty():
        history.append(url, each)
    assert history.load(url) == twenty()
    with pytest.raises(BadData, match="no such file system"):
        history.load("nosuch://a")
    with pytest.raises(BadData, match="no run is in it"):
        history.load("memory://elsewhere")


def test_the_commit_is_that_of_the_working_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in history.COMMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert history.commit_of(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    assert len(history.commit_of(tmp_path)) == 40
    monkeypatch.setenv("CI_COMMIT_SHA", "of CI")
    assert history.commit_of(tmp_path) == "of CI"


def test_a_line_cut_by_a_kill_is_named_and_the_next_run_stands(tmp_path: Path) -> None:
    saved(tmp_path, [past(1, {"a": start()})])
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"schema": "ptq-hist')
    saved(tmp_path, [past(2, {"a": start()})])
    with pytest.raises(BadData, match=r"history.jsonl: line 2 is damaged .*: remove that line"):
        history.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"cases": {"a": {}}}, {"cases": []}, {"commit": 5}, {"schema": "ptq-history/2"}, {"machine": None},
        {"ratios": {"a": {"ratio": "x"}}},
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path, [past(1, {"a": start()})])
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadData, match="line 1 is damaged"):
        history.load(tmp_path)


def test_the_page_holds_ratios_and_says_what_is_not_tested(tmp_path: Path) -> None:
    content = some()
    for each in content["results"]:
        each["outcomes"] = None
    runs = [history.past(content, name) for name in ("one", "two")]
    text = " ".join(Reader(trend.page(runs, series(runs))).text.split())
    assert "Without outcomes by image, or of other images each time, so not tested: digits-onnxruntime-fp32" in text
    assert "digits-onnxruntime-u8s8-minmax batch 1 against fp32" in text
    assert "0.600" in text
    with pytest.raises(BadData, match="no history is there"):
        history.load(tmp_path)
