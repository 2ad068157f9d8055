"""ptq.gate.judge: what is measured is held to its bar, and a float model that is no reference turns everything red."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from foreign import images, write_model
from onnx import TensorProto, helper, numpy_helper

from ptq.backends.onnxruntime import OnnxRuntime
from ptq.cases import Case
from ptq.data.batch import Batch
from ptq.data.contract import InputContract
from ptq.data.samples import ArraySamples, Samples
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.engine.workload import Artifact, Workload
from ptq.errors import BadData, PtqError
from ptq.gate.bars import load_bars
from ptq.gate.judge import Judge
from ptq.gate.reference import References
from ptq.gate.result import FLOAT_MODEL, Result
from ptq.gate.verdict import FAIL, PASS
from ptq.metrics.metric import Metric, Predictions, Score
from ptq.quantization.correct import correct
from ptq.quantization.method import EXTREMES, HISTOGRAM, MOMENTS, Method

pytest.importorskip("scipy", reason="paired statistics need scipy: pip install 'ptq[suite]'")

FLOAT, EXACT = Case("mine", "onnxruntime", "fp32"), Case("mine", "onnxruntime", "uint8", "minmax")


def judge(folder: Path, workload: Workload, keys: str, registry: Registry | None = None) -> Judge:
    path = folder / "bars.toml"
    path.write_text(f'["*"]\nwhy = "a test"\n{keys}\n')
    return Judge([workload], load_bars(path), References(folder / "reference.json"), Store(folder / "cache"), registry)


def results(folder: Path, workload: Workload, keys: str) -> dict[str, Result]:
    """What a judge of its own, in a store of its own, says of a few cases."""
    made = judge(folder, workload, keys)
    return {case.id: made.result(case) for case in made.cases()}


def some(case: Case) -> bool:
    return case.backend == "onnxruntime" and case.id in ("mine-onnxruntime-fp32", "mine-onnxruntime-uint8-minmax")


@pytest.fixture
def mine(tmp_path: Path) -> Workload:
    """A classifier and 390 images, all defaults: no contract, no metric."""
    write_model(tmp_path / "model.onnx")
    x, y = images(390)
    return Workload(
        "mine", tmp_path / "model.onnx", ArraySamples(x[:90], y[:90]), ArraySamples(x[90:], y[90:]), include=some
    )


def scaled(samples: Any, factor: float) -> ArraySamples:
    return ArraySamples((samples.inputs * factor).astype(np.float32), samples.targets)


# --- a float model that is no reference


def test_data_divided_by_255_is_red_whatever_the_bars_say(mine: Workload, tmp_path: Path) -> None:
    """The quantized model agrees with a float model that guesses: a drop against it says nothing."""
    wrong = replace(mine, calibration=scaled(mine.calibration, 1 / 255), evaluation=scaled(mine.evaluation, 1 / 255))
    keys = 'max_drop = 100\nexpected_failure = ["accuracy"]'
    found = results(tmp_path, wrong, keys)
    assert len(found) == 2
    for name, result in found.items():
        assert (result.verdict, result.red) == (FAIL, True)
        assert result.reason.startswith(
            f"{name}: the float model is no reference: evaluation: the float model's top-1 "
        )
        assert result.reason.endswith("likely cause: divided by 255")
        assert result.drop is not None
        assert result.drop < 100
    right = results(tmp_path, mine, "max_drop = 100")
    assert {result.verdict for result in right.values()} == {PASS}


def test_shuffled_labels_are_red_whatever_the_bars_say(mine: Workload, tmp_path: Path) -> None:
    evaluation = mine.evaluation
    assert isinstance(evaluation, ArraySamples)
    shuffled = replace(evaluation, targets=np.random.default_rng(0).permutation(evaluation.targets))
    for result in results(tmp_path, replace(mine, evaluation=shuffled), "max_drop = 100").values():
        assert result.red
        assert "no better than chance (0.3333); likely cause: shuffled labels" in result.reason


def test_what_was_found_of_a_float_model_is_kept(mine: Workload, tmp_path: Path) -> None:
    first = judge(tmp_path, mine, "max_drop = 100")
    first.result(EXACT)
    made = first.store.counts["score", "made"]
    again = judge(tmp_path, mine, "max_drop = 100")
    assert again.result(EXACT).verdict == PASS
    assert (made, again.store.counts["score", "made"]) == (2, 0)


# --- bars that do not fit, and numbers that no bar can be held to


@dataclass(frozen=True)
class MeanSquaredError(Metric):
    """Against targets of one row a sample."""

    name: ClassVar[str] = "mse"
    unit: ClassVar[str] = "squared error"
    higher_is_better: ClassVar[bool] = False

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        errors = ((predictions["y"] - samples.targets) ** 2).mean(axis=1, dtype=np.float64)
        return Score(float(errors.mean()), len(samples), None, {}, errors)


@dataclass(frozen=True)
class Broken(MeanSquaredError):
    def score(self, predictions: Predictions, samples: Samples) -> Score:
        return replace(super().score(predictions, samples), value=float("nan"))


def regression(folder: Path, targets: bool, width: int = 8) -> Workload:
    """y = x W, targets x W itself: the float model's loss is 0, and no class is anywhere."""
    generator = np.random.default_rng(3)
    weight = generator.normal(0, 1, (width, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="multiply")],
        "regression",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "r.onnx")
    x = generator.normal(0, 1, (300, width)).astype(np.float32)
    y = x @ weight if targets else None
    halves = [ArraySamples(x[part], None if y is None else y[part]) for part in (slice(100), slice(100, 300))]
    return Workload(
        "mine", folder / "r.onnx", halves[0], halves[1], metric=MeanSquaredError() if targets else None, include=some
    )


def test_a_loss_is_judged_by_a_ceiling(tmp_path: Path) -> None:
    good = results(tmp_path, regression(tmp_path, targets=True), "ceiling = 1.0\nmax_drop = 1.0\nmin_sqnr_db = 20")
    assert {result.verdict for result in good.values()} == {PASS}
    quantized = good[EXACT.id]
    assert (quantized.unit, quantized.higher_is_better, quantized.truth) == ("squared error", False, "given")
    assert quantized.value is not None
    assert quantized.drop == pytest.approx(quantized.value, rel=1e-3)
    assert Result.from_json(quantized.as_json()) == quantized
    for keys, told in (
        ("ceiling = 1e-9", "> ceiling 1e-09 (fp32 "),
        ("max_drop = 1e-9", "squared error > max_drop 1e-09 squared error"),
        ("min_sqnr_db = 90", "dB < min_sqnr_db 90.0 dB"),
    ):
        bad = results(tmp_path, regression(tmp_path, targets=True), keys)[EXACT.id]
        assert (bad.verdict, bad.red) == (FAIL, True)
        assert told in bad.reason


def test_a_bar_that_the_metric_cannot_use_is_one_line(mine: Workload, tmp_path: Path) -> None:
    for workload, keys, told in (
        (mine, "ceiling = 0.5", "ceiling=0.5, but more is better of top1: set a floor"),
        (mine, "floor = 95", "floor=95, but top1 lies in 0..1"),
        (regression(tmp_path, targets=True), "floor = 0.5", "floor=0.5, but less is better of mse"),
        (regression(tmp_path, targets=False), "max_drop = 1", "max_drop=1, but sqnr is a distance to FP32 already"),
        (replace(regression(tmp_path, True), metric=Numbers()), "min_agreement = 0.9", f"outputs of {EXACT.id} cannot"),
    ):
        with pytest.raises(BadData) as caught:
            judge(tmp_path, workload, keys).result(EXACT)
        assert str(caught.value).startswith(f'{tmp_path / "bars.toml"}: ["*"] ')
        assert told in str(caught.value)


@dataclass(frozen=True)
class Numbers(MeanSquaredError):
    """Whose decisions cannot be matched."""

    def agreement(self, predictions: Predictions, reference: Predictions) -> float | None:
        return None


def test_a_metric_that_gives_no_number_is_one_line(tmp_path: Path) -> None:
    broken = replace(regression(tmp_path, targets=True), metric=Broken())
    with pytest.raises(BadData, match=f"{EXACT.id}: mse gave nan, but should give a finite number"):
        judge(tmp_path, broken, "ceiling = 1").result(EXACT)


@dataclass(frozen=True)
class OfItsOwnSamples(MeanSquaredError):
    """A detector's boxes lie in images whose size only its own kind of samples knows."""

    def collect(self, outputs: Iterable[Batch], samples: Samples) -> Predictions:
        assert isinstance(samples, ArraySamples)
        return super().collect(outputs, samples)

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        assert isinstance(samples, ArraySamples)
        return super().score(predictions, samples)


def test_a_metric_is_given_the_samples_as_the_workload_gave_them(tmp_path: Path) -> None:
    workload = replace(regression(tmp_path, targets=True), metric=OfItsOwnSamples())
    assert judge(tmp_path, workload, "ceiling = 1").result(EXACT).verdict == PASS


def test_a_result_of_an_earlier_version_can_be_read(mine: Workload, tmp_path: Path) -> None:
    row = judge(tmp_path, mine, "floor = 0.9").result(EXACT).as_json()
    new = {name: row.pop(name) for name in ("unit", "higher_is_better", "truth")}
    assert new == {"unit": "share", "higher_is_better": True, "truth": "given"}
    assert Result.from_json(row).as_json() == row | new


# --- no truth


def test_without_targets_the_float_model_is_the_truth(tmp_path: Path) -> None:
    found = results(tmp_path, regression(tmp_path, targets=False), "min_sqnr_db = 20\nfloor = 20")
    for result in found.values():
        assert (result.verdict, result.metric, result.unit, result.truth) == (PASS, "sqnr", "dB", FLOAT_MODEL)
        assert result.reason.endswith("; no truth was given: the float model's own answers are the truth")
    assert found[FLOAT.id].sqnr_db is None  # equal to the bit
    assert found[EXACT.id].value == pytest.approx(found[EXACT.id].sqnr_db)
    bad = results(tmp_path, regression(tmp_path, targets=False), "min_sqnr_db = 90")[EXACT.id]
    assert bad.red
    assert "min_sqnr_db 90.0 dB" in bad.reason


def test_a_classifier_without_targets_is_judged_by_agreement(mine: Workload, tmp_path: Path) -> None:
    assert isinstance(mine.evaluation, ArraySamples)
    found = results(tmp_path, replace(mine, evaluation=ArraySamples(mine.evaluation.inputs)), "min_agreement = 0.99")
    assert {(result.metric, result.verdict, result.truth) for result in found.values()} == {
        ("agreement", PASS, FLOAT_MODEL)
    }


def test_a_float_model_that_says_the_same_of_everything_is_red_without_a_truth(tmp_path: Path) -> None:
    workload = regression(tmp_path, targets=False)
    model = onnx.load(tmp_path / "r.onnx")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((8, 4), np.float32), "w"))
    model.graph.node[0].output[0] = "zero"
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "b"))
    model.graph.node.append(helper.make_node("Add", ["zero", "b"], ["y"]))
    onnx.save(model, tmp_path / "r.onnx")
    result = judge(tmp_path, workload, "min_sqnr_db = 20").result(FLOAT)
    assert (result.verdict, result.red) == (FAIL, True)
    assert "the float model says the same of every one of 200 samples" in result.reason


# --- what is declared


@pytest.mark.parametrize(
    ("unchecked", "told"),
    [
        ({"ballance": "rare"}, "mine: unchecked='ballance', but should be one of contract, range, channels, balance"),
        ({"balance": " "}, r"mine: unchecked\['balance'\]=' ', but should say why in a sentence"),
    ],
)
def test_what_is_left_unchecked_is_a_check_and_has_a_reason(
    mine: Workload, tmp_path: Path, unchecked: dict[str, str], told: str
) -> None:
    with pytest.raises(PtqError, match=told):
        judge(tmp_path, replace(mine, unchecked=unchecked), "floor = 0.9")


def test_two_cases_of_one_id_are_refused(mine: Workload, tmp_path: Path) -> None:
    """A method called `channel` reads as the granularity does."""
    registry = Registry(extra_methods=(Method("channel", lambda seen, quantizer: (seen.min, seen.max)),))

    class Grid(OnnxRuntime):
        name = "grid"

        def cases(self, workload: str, methods: Any) -> list[Case]:
            return [Case(workload, "grid", "int8", "channel"), Case(workload, "grid", "int8", granularity="channel")]

    registry = replace(registry, extra_backends=(Grid(),))
    with pytest.raises(PtqError, match="mine: two cases have the id mine-grid-int8-channel"):
        judge(tmp_path, replace(mine, include=lambda case: case.backend == "grid"), "floor = 0.9", registry)


@pytest.mark.parametrize("name", ["minmax", "mse_gptq"])
def test_an_artifact_called_like_a_method_is_refused(mine: Workload, tmp_path: Path, name: str) -> None:
    made = {name: Artifact("onnxruntime", "uint8", tmp_path / "model.onnx")}
    with pytest.raises(PtqError, match=f"mine: the artifact '{name}' is called as a method"):
        judge(tmp_path, replace(mine, artifacts=made), "floor = 0.9")


def test_an_include_that_leaves_nothing_is_refused(mine: Workload, tmp_path: Path) -> None:
    with pytest.raises(PtqError, match="mine: its include leaves no case"):
        judge(tmp_path, replace(mine, include=lambda case: False), "floor = 0.9")


def test_the_method_that_needs_least_stands_for_a_graph(mine: Workload, tmp_path: Path) -> None:
    def whole(seen: Any, quantizer: Any) -> tuple[float, float]:
        return min(0.0, seen.min), max(0.0, seen.max)

    light = Method("zz_light", whole, frozenset({EXTREMES}))
    corrects = Method("zz_corrects", whole, frozenset({HISTOGRAM, MOMENTS}), corrects=correct)
    registry = Registry(extra_methods=(light, corrects))
    asked = {"percentile", "zz_light", "mse_gptq", "zz_corrects"}
    workload = replace(
        mine,
        include=lambda case: (
            (case.backend, case.dtype, case.granularity, case.exclude) == ("onnxruntime", "uint8", "tensor", "none")
            and case.method in asked
        ),
        artifacts={"theirs": Artifact("onnxruntime", "uint8", tmp_path / "model.onnx")},
    )
    graphs = judge(tmp_path, workload, "floor = 0.9", registry).graphs()
    stands = {case.method: {other.method for other in cases} for case, cases in graphs.items()}
    assert stands["zz_light"] == {"percentile", "zz_light"}
    assert stands["theirs"] == {"theirs"}
    assert {"mse_gptq", "zz_corrects"} in stands.values()
    assert len(stands) == 3


def test_contracts_by_input_name_are_kept(mine: Workload, tmp_path: Path) -> None:
    named = replace(mine, contract={"x": InputContract((None, 8, 8, 1), "NHWC", low=0, high=9)})
    with pytest.raises(BadData, match=r"mine: calibration: batch.* should be in \[0, 9\]"):
        judge(tmp_path, named, "floor = 0.9").result(EXACT)
