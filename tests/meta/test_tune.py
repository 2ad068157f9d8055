"""tune: always an artifact, chosen on one half of the samples and reported on the other."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign import CONFTEST, images, run, write_model
from small_encoder import sentences, write_encoder

import ptq
from ptq.api.tuned import Tuned, tune_workload
from ptq.cases import Case
from ptq.cli import main
from ptq.data.part import part
from ptq.data.samples import ArraySamples
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import BadData, PtqError
from ptq.metrics.fidelity import Fidelity
from ptq.quantization.weights import ranges, unsaturated
from ptq.report.tuned import page
from ptq.tuning.bar import Bar
from ptq.tuning.deadline import Deadline
from ptq.tuning.search import Search
from ptq.tuning.space import levels
from ptq.tuning.trial import Trial


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are of no matter here."""
    monkeypatch.setattr("ptq.tuning.trial.SECONDS", 0.2)


@pytest.fixture
def mine(tmp_path: Path) -> Workload:
    write_model(tmp_path / "model.onnx", conv=True)
    x, y = images(240)
    return Workload("mine", tmp_path / "model.onnx", ArraySamples(x[:80], y[:80]), ArraySamples(x[80:], y[80:]))


def found(workload: Workload, folder: Path, **given: Any) -> Tuned:
    bar = Bar(given.pop("max_drop", None if "floor" in given else 5.0), given.pop("floor", None))
    settings = {"bar": bar, "minimise": "time", "batch": 1, "seconds": 300.0} | given
    return tune_workload(
        workload, out=folder / "out.onnx", store=Store(folder / "cache"), registry=Registry(), **settings
    )


@pytest.mark.parametrize(("targets", "group"), [(6, 1), (3, 2), (None, 1)])
def test_halves_share_no_sample_and_keep_what_belongs_together(targets: int | None, group: int) -> None:
    @dataclass(frozen=True)
    class Pairs(ArraySamples):
        def __post_init__(self) -> None:
            """Two samples may share a target."""

    x = np.arange(6.0)
    whole = Pairs({"a": x[:, None], "b": list(x)}, None if targets is None else np.arange(targets))
    halves = [part(whole, which).inputs for which in (0, 1)]  # type: ignore[attr-defined]
    rows = [list(half["a"][:, 0]) for half in halves]
    assert sorted(rows[0] + rows[1]) == list(x)
    assert rows[0] == [value for value in x if value // group % 2 == 0]
    assert [half["b"] for half in halves] == rows


def test_samples_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(BadData, match="2 targets or more"):
        part(ArraySamples(np.zeros((1, 2))), 0)
    with pytest.raises(BadData, match="should be a dataclass"):
        part(NotOne(), 0)


class NotOne:
    targets = None

    def __len__(self) -> int:
        return 4


def test_recipes_that_meet_the_bar_end_the_search_and_reported_on_the_other_half(
    mine: Workload, tmp_path: Path
) -> None:
    made = found(mine, tmp_path)
    assert made.met
    assert made.n == 80
    assert made.path.is_file()
    assert {each.case.method for each in made.trials} >= {"percentile", "mse", "mse_gptq"}
    again = found(mine, tmp_path)
    assert again.best.case == made.best.case
    assert again.drop == made.drop


def test_a_bar_that_nothing_meets_gives_the_best_and_says_so(mine: Workload, tmp_path: Path) -> None:
    made = found(replace(mine, metric=Harsh()), tmp_path, max_drop=0.0)
    assert not made.met
    assert made.path.is_file()
    assert len(made.trials) > 6
    assert {len(each.exclude) for each in made.trials} >= {0, 1, 2}  # auto finds nothing here; then the worst layers
    assert "misses max_drop 0" in str(made)


class Harsh(ptq.Top1):
    """One point lost, whatever the case."""

    name = "harsh"

    def drop(self, ours: Any, theirs: Any, samples: Any, confidence: float) -> ptq.Interval:
        return ptq.Interval(1.0, 0.5, 2.0, confidence)


def test_no_time_at_all_is_one_line_and_writes_nothing(mine: Workload, tmp_path: Path) -> None:
    with pytest.raises(PtqError, match="no artifact was made yet: the 0 seconds ended"):
        found(mine, tmp_path, seconds=0.0)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("by", ["interrupted", "seconds", "seconds, in the background"])
def test_what_ends_in_the_middle_of_a_candidate_keeps_the_best_so_far(
    by: str, mine: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A shell's `&` starts a process that ignores SIGINT: its seconds end all the same."""
    real, calls = Search._judged, [0]
    if "background" in by:
        request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN)))

    def judged(self: Any, *given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3 and by == "interrupted":
            raise KeyboardInterrupt
        while calls[0] == 3:  # a candidate without an end
            if "background" in by and time.monotonic() - start < 2:
                signal.getsignal(signal.SIGINT)(signal.SIGINT, None)  # type: ignore[operator,misc]  # is ignored still
            assert time.monotonic() - start < 60
            time.sleep(0.01)
        return real(self, *given)

    monkeypatch.setattr(Search, "_judged", judged)
    start, seconds = time.monotonic(), 300.0 if by == "interrupted" else 10.0
    made = found(replace(mine, metric=Harsh()), tmp_path, max_drop=0.0, seconds=seconds)
    assert time.monotonic() - start < 15
    assert made.ended == ("interrupted" if by == "interrupted" else "the 10 seconds ended")
    assert made.path.is_file()
    assert made.drop is not None
    assert len(made.trials) == 2
    assert (signal.getsignal(signal.SIGINT) is signal.SIG_IGN) == ("background" in by)


def test_a_deadline_that_is_met_raises_nothing_afterwards() -> None:
    with Deadline(0.2).held(0.1):
        pass
    time.sleep(0.2)


def test_as_few_nodes_as_will_do_stay_in_float(mine: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """11 of the worst layers are needed: 1, 2, 4, 8, 16 are tried, then 12, 10 and 11."""

    def tried(self: Any, case: Any, exclude: tuple[str, ...]) -> None:
        lifted = len([each for each in exclude if each != "auto"])
        drop = ptq.Interval(0.0 if lifted >= 11 else 1.0, -1.0, 2.0, 0.95)
        self._last = Trial(case, exclude, drop, 80, 30.0, (0.7, 0.7, 0.7), 1000)
        self.trials.append(self._last)
        self.best = self._last if self._beats(self._last) else self.best

    monkeypatch.setattr(Search, "_try", tried)
    monkeypatch.setattr(Search, "_worst", lambda self, trial: [[f"n{at}"] for at in range(40)])
    search = Search(
        mine,
        Store(tmp_path / "cache"),
        Registry(),
        0.5,
        "time",
        1,
        Deadline(60),
        tmp_path / "o.onnx",
        lambda line: None,
    )
    assert search.run() == "nothing more to try"
    counts = [len(each.exclude) for each in search.trials if "n0" in each.exclude]
    assert counts == [1, 2, 4, 8, 16, 12, 10, 11]
    assert search.best is not None
    assert search.best.exclude == tuple(f"n{at}" for at in range(11))


def test_where_none_meets_the_bar_and_the_metric_cannot_tell_what_is_left_of_the_answers_decides(
    mine: Workload, tmp_path: Path
) -> None:
    out = tmp_path / "o.onnx"
    search = Search(mine, Store(tmp_path / "c"), Registry(), 0.5, "time", 1, Deadline(60), out, lambda line: None)

    def trial(drop: float, kept_db: float, ratio: float = 0.7, half: float = 2.0) -> Trial:
        interval = ptq.Interval(drop, drop - half, drop + half, 0.95)
        return Trial(Case("mine", "onnxruntime", "u8s7", "mse"), (), interval, 64, kept_db, (ratio,) * 3, 1000)

    search.best = trial(2.6, 8.0)
    assert search._beats(trial(3.5, 9.0))  # as fast: the more of the answers
    assert not search._beats(trial(2.5, 7.0))
    assert not search._beats(trial(2.5, 9.0, ratio=0.9))  # slower, and not clearly better
    assert search._beats(trial(2.5, 12.0, ratio=0.9))
    assert not search._beats(trial(9.0, 30.0))  # the metric can tell
    assert search._beats(trial(0.3, 7.0))  # meets the bar


def test_pairs_of_weights_fit_in_16_bits_as_kernels_without_vnni_add_them_up() -> None:
    random = np.random.default_rng(0)
    for shape in ((16, 7, 3, 3), (16, 64, 1, 1), (8, 33)):
        weights = random.normal(size=shape).astype(np.float32)
        for fits, (low, high) in ((True, unsaturated(weights, 0)), (False, ranges(weights, 0))):
            scale = np.maximum(-low, high) / 127
            rows = np.rint(np.moveaxis(weights, 1, -1).reshape(shape[0], -1) / scale[:, None])
            pairs = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(shape[0], -1, 2)
            worst = max(np.maximum(pairs, 0).sum(-1).max(), np.maximum(-pairs, 0).sum(-1).max())
            assert bool(255 * worst <= 32767) is fits
    alone = random.normal(size=(16, 1, 3, 3)).astype(np.float32)
    assert np.array_equal(unsaturated(alone, 0)[1], np.abs(alone).max(axis=(1, 2, 3)))


def test_a_sentence_encoder_is_given_methods_that_quantize_at_run_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(write_encoder(tmp_path / "encoder.onnx"))
    assert {method for level in levels(model, "time") for _, method in level} >= {"dynamic", "dynamic_smooth_gptq"}
    write_model(tmp_path / "model.onnx", conv=True)
    convolutions = onnx.load(tmp_path / "model.onnx")
    static = {(dtype, method) for dtype in ("u8s8", "uint8") for method in ("percentile", "mse", "mse_gptq")}
    monkeypatch.setattr("ptq.tuning.space.saturates", lambda: False)
    assert {each for level in levels(convolutions, "time") for each in level} == static
    monkeypatch.setattr("ptq.tuning.space.saturates", lambda: True)
    right = {each for level in levels(convolutions, "time") for each in level}
    assert {each for each in right if each[0] == "u8s8"} == {("u8s8", "percentile_gptq_pairs")}
    words = ptq.Workload("words", tmp_path / "encoder.onnx", sentences(40), sentences(60, 1))
    made = found(words, tmp_path, floor=50.0)
    assert {"dynamic", "dynamic_smooth_gptq"} < {each.case.method for each in made.trials}


def test_the_page_shows_all_that_was_tried(mine: Workload, tmp_path: Path) -> None:
    made = found(mine, tmp_path)
    text = page(json.loads(json.dumps(made.as_json())))
    assert text.count('<g class="point"') == 2 * len(made.trials)
    assert text.count('class="front"') == 2
    assert all(each.case.id in text for each in made.trials)
    assert "http" not in re.sub(r"http-equiv", "", text)


def test_what_is_printed_can_be_pasted(repository: pytest.Pytester) -> None:
    folder = repository.path
    write_model(folder / "model.onnx", conv=True)
    x, y = images(240)
    workload = Workload("mine", folder / "model.onnx", ArraySamples(x[:80], y[:80]), ArraySamples(x[80:], y[80:]))
    lines = str(found(workload, folder)).splitlines()
    (artifacts,) = (line for line in lines if line.startswith("artifacts="))
    (folder / "bars.toml").write_text("\n".join(lines[lines.index("# bars.toml:") :]) + "\n")
    before, after = CONFTEST.split("include=")
    rest = after.partition('"minmax"))]')[2]
    (folder / "conftest.py").write_text(f"{before}{artifacts} include=lambda case: False)]{rest}")
    result = run(repository, "-m", "accuracy")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_search_leaves_a_model_and_goes_on(by: signal.Signals, tmp_path: Path) -> None:
    """A signal while candidates are judged; then ptq evaluate takes the file, and a second call ends the search."""
    write_model(tmp_path / "model.onnx")
    x, y = images(160)
    for name, values in (("train.npy", x[:60]), ("test.npy", x[60:]), ("labels.npy", y[60:])):
        np.save(tmp_path / name, values)
    words = ["tune", "model.onnx", "--calibration", "train.npy", "--data", "test.npy", "--targets", "labels.npy"]
    command = [sys.executable, "-c", "from ptq.cli import main; main()", *words, "--max-drop", "5", "-o", "out.onnx"]
    environment = {**os.environ, "PTQ_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as running:
        end = time.monotonic() + 60
        while not (tmp_path / "out.onnx").exists() and time.monotonic() < end:
            time.sleep(0.02)
        running.send_signal(by)
    made = ptq.evaluate(tmp_path / "out.onnx", x[60:], y[60:], baseline=tmp_path / "model.onnx")
    assert made.score.n == 100
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "meets max_drop 5" in done.stdout
    assert "one calibration pass" not in done.stderr


def test_a_small_file_may_be_asked_for(mine: Workload, tmp_path: Path) -> None:
    fast, small = found(mine, tmp_path), found(mine, tmp_path, minimise="size", max_drop=60.0)
    assert small.best.case.dtype == "u8s4"
    assert small.best.size_bytes < fast.best.size_bytes


def test_the_command_writes_the_file_and_the_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "cache"))
    write_model(tmp_path / "model.onnx")
    x, y = images(160)
    for name, values in (("train.npy", x[:60]), ("test.npy", x[60:]), ("labels.npy", y[60:])):
        np.save(name, values)
    words = ["tune", "model.onnx", "--calibration", "train.npy", "--data", "test.npy", "--targets", "labels.npy"]
    with pytest.raises(SystemExit) as left:
        main([*words, "--max-drop", "5", "-o", "out.onnx"])
    assert left.value.code == 0
    assert "max_drop = 5" in capsys.readouterr().out.splitlines()
    assert onnx.load("out.onnx").graph.node
    with pytest.raises(SystemExit) as left:
        main([*words[:2], "--max-drop", "5", "-o", "out.onnx"])
    assert left.value.code == 2
    assert "needs --calibration and --data" in capsys.readouterr().err


def test_a_floor_is_what_a_model_without_truth_is_held_to(mine: Workload, tmp_path: Path) -> None:
    x = images(160)[0]
    untold = replace(mine, evaluation=ArraySamples(x), metric=Fidelity())
    with pytest.raises(PtqError, match=r"max_drop = 5, but no truth was given: .* floor should be given, in dB"):
        found(untold, tmp_path)
    made = found(untold, tmp_path, floor=15.0)
    assert made.met
    assert made.value is not None
    assert made.value >= 15
    assert "meets floor = 15" in made.sentence
    assert "floor = 15" in str(made).splitlines()
    high = found(untold, tmp_path, floor=149.0)
    assert not high.met
    assert "misses floor = 149" in high.sentence
    for given in ({"max_drop": None}, {"max_drop": 1.0, "floor": 0.9}):
        with pytest.raises(PtqError, match="should be to one of them"):
            found(mine, tmp_path, **given)


def test_a_floor_of_a_share_is_a_value(mine: Workload, tmp_path: Path) -> None:
    assert found(mine, tmp_path, floor=0.5).met
    assert not found(mine, tmp_path, floor=1.0 + 1e-9).met
