"""ptq.metrics: what a metric from outside needs, top-1, and how a model without a given truth is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from ptq.data.samples import ArraySamples, Samples
from ptq.engine.registry import Registry
from ptq.engine.score import TrueByReference
from ptq.errors import BadData
from ptq.metrics.fidelity import LIMIT_DB, Agreement, Fidelity, fidelity_for
from ptq.metrics.metric import Metric, Predictions, Score
from ptq.metrics.top1 import Top1

RANDOM = np.random.default_rng(11)


@dataclass(frozen=True)
class MeanSquaredError(Metric):
    """All that a metric of one's own needs: an autoencoder's loss, whose targets are its inputs."""

    name: ClassVar[str] = "mse"
    unit: ClassVar[str] = "squared error"
    higher_is_better: ClassVar[bool] = False

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        errors = ((predictions["y"] - samples.targets) ** 2).reshape(len(samples), -1).mean(axis=1, dtype=np.float64)
        return Score(float(errors.mean()), len(samples), None, {}, errors)


def test_a_metric_of_ones_own_needs_a_score_alone() -> None:
    x = RANDOM.normal(0, 1, (80, 6)).astype(np.float32)
    samples, metric = ArraySamples(x, x), MeanSquaredError()
    halves = [{"y": x[:40] + np.float32(0.1)}, {"y": x[40:] + np.float32(0.1)}]
    fp32 = metric.collect(halves, samples)
    worse = metric.collect([{"y": fp32["y"] + RANDOM.normal(0, 0.2, x.shape).astype(np.float32)}], samples)
    assert metric.score(fp32, samples).value == pytest.approx(0.01, rel=1e-4)
    interval = metric.drop(worse, fp32, samples, 0.95)
    assert 0 < interval.low < interval.drop < interval.high
    assert interval.drop == pytest.approx(metric.score(worse, samples).value - metric.score(fp32, samples).value)
    better = metric.drop(fp32, worse, samples, 0.95)
    assert better.high < 0
    assert metric.range == (-math.inf, math.inf)
    assert 5 < (metric.sqnr_db(worse, fp32) or 0) < 20
    assert metric.sqnr_db(fp32, fp32) == math.inf


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ([{"y": np.full((3, 2), np.nan)}], r"y\[0\] is not finite"),
        ([{"y": np.zeros((2, 2))}], "2 rows, but should be 3"),
        ([{"y": np.zeros((2, 2))}, {"y": np.zeros((1, 3))}], "shapes differ from sample to sample"),
    ],
)
def test_outputs_that_cannot_be_kept_are_told(outputs: list[dict[str, np.ndarray]], told: str) -> None:
    with pytest.raises(BadData, match=told):
        MeanSquaredError().collect(outputs, ArraySamples(np.zeros((3, 2)), np.zeros((3, 2))))


def classified(outputs: np.ndarray, labels: np.ndarray) -> tuple[Predictions, ArraySamples]:
    samples = ArraySamples(np.zeros((len(labels), 1), np.float32), labels)
    return Top1().collect([{"p": outputs}], samples), samples


def test_top1_counts_and_its_drop_is_tangos() -> None:
    labels = np.arange(100) % 5
    right = np.eye(5, dtype=np.float32)[labels]
    wrong = right.copy()
    wrong[:10] = np.eye(5, dtype=np.float32)[(labels[:10] + 1) % 5]
    said, samples = classified(wrong, labels)
    fp32, _ = classified(right, labels)
    score = Top1().score(said, samples)
    assert (score.value, score.correct, score.chance) == (0.9, 90, 0.2)
    assert score.per_class == {str(each): 0.9 for each in range(5)}
    assert score.details["confusion"] == sorted([[k, (k + d) % 5, n] for k in range(5) for d, n in ((0, 18), (1, 2))])
    assert Top1().agreement(said, fp32) == 0.9
    interval = Top1().drop(said, fp32, samples, 0.95)
    assert (interval.drop, interval.p) == (pytest.approx(10), pytest.approx(2 / 1024))
    same = Top1().drop(fp32, fp32, samples, 0.95)
    assert same.low < 0 < same.high  # no disagreement is no certainty


def test_top1_looks_at_the_output_it_is_told() -> None:
    samples = ArraySamples(np.zeros((2, 1), np.float32), np.array([0, 1]))
    batch = {"box": np.zeros((2, 4)), "class": np.eye(2)}
    assert Top1("class").collect([batch], samples)["outputs"].shape == (2, 2)
    assert Top1().collect([batch], samples)["outputs"].shape == (2, 4)


@pytest.mark.parametrize(
    ("score", "told"),
    [
        (lambda: Top1().score(*classified(np.eye(3), np.array([1, 2, 3]))), r"labels span 1\.\.3"),
        (lambda: Top1().score(*classified(np.eye(3), np.eye(3))), "one-hot labels, or names"),
        (lambda: classified(np.zeros((3, 2, 2)), np.arange(3)), "for top1"),
        (lambda: classified(np.full((3, 3), np.inf), np.arange(3)), "not finite"),
    ],
)
def test_what_is_no_classification_is_told(score: Callable[[], object], told: str) -> None:
    with pytest.raises(BadData, match=told):
        score()


# --- no truth: the float model's own outputs are it


def truth(reference: Predictions) -> Samples:
    count = len(next(iter(reference.values())))
    return TrueByReference(ArraySamples(np.zeros((count, 1), np.float32)), reference)  # type: ignore[return-value]


def test_agreement_with_the_float_model_is_a_share() -> None:
    fp32 = {"p": np.eye(4)[np.arange(40) % 4]}
    said = {"p": fp32["p"].copy()}
    said["p"][:4] = said["p"][:4, ::-1]
    metric = fidelity_for(fp32)
    assert metric == Agreement()
    score = metric.score(said, truth(fp32))
    assert (score.value, score.correct, score.chance) == (0.9, 36, 0.25)
    assert metric.drop(said, fp32, truth(fp32), 0.95).drop == pytest.approx(10)
    with pytest.raises(BadData, match="another model"):
        metric.score({"p": np.eye(4)}, truth(fp32))


def test_fidelity_is_the_sqnr_of_every_output() -> None:
    fp32 = {"mask": np.full((5, 2, 2), 10.0, np.float32), "box": np.full((5, 4), 10.0, np.float32)}
    said = {name: values + np.float32(1) for name, values in fp32.items()}
    metric = fidelity_for(fp32)
    assert metric == Fidelity()
    score = metric.score(said, truth(fp32))
    assert score.value == pytest.approx(20)
    assert score.outcomes == pytest.approx([20] * 5)
    assert metric.score(fp32, truth(fp32)).value == LIMIT_DB
    assert metric.score({name: 0 * values for name, values in fp32.items()}, truth(fp32)).value == score.chance == 0
    renamed = dict(zip(("StatefulPartitionedCall:0", "StatefulPartitionedCall:1"), said.values(), strict=True))
    assert metric.score(renamed, truth(fp32)).value == pytest.approx(20)  # a runtime names outputs as it likes
    with pytest.raises(BadData, match="no output is a float"):
        metric.score({"k": np.zeros((5, 1), np.int64)}, truth({"k": np.zeros((5, 1), np.int64)}))
    assert isinstance(fidelity_for({"logits": RANDOM.normal(0, 1, (6, 3))}), Fidelity)


def test_nothing_to_compare_is_none_and_not_equal() -> None:
    integers, zeros = {"k": np.zeros((5, 1), np.int64)}, {"y": np.zeros((5, 2), np.float32)}
    assert Metric().sqnr_db(integers, integers) is None
    assert Metric().sqnr_db({"y": zeros["y"] + 1}, zeros) is None


def test_the_registry_finds_every_metric() -> None:
    assert {"top1", "map50_95", "agreement", "sqnr"} <= set(Registry().metrics)
    assert Registry().metrics["sqnr"] is Fidelity
