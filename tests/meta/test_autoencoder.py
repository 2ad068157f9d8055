"""An autoencoder, made and trained here: no labels, judged by its reconstruction error and its SQNR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptq.cases import Case
from ptq.data.samples import ArraySamples
from ptq.engine.pipeline import Measured, Pipeline
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import BadData
from ptq.gate.bars import Bar
from ptq.gate.verdict import FAIL, PASS, judge_accuracy
from ptq.metrics.reconstruction import Reconstruction

HIDDEN = (48, 16, 48)
WITHIN = 1.02
"""The bar: at most 2 % above FP32's error."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """64-48-16-48-64 on scikit-learn's digits, as ad01 of MLPerf Tiny has it: Gemm and Relu."""
    neural = pytest.importorskip("sklearn.neural_network")
    images = pytest.importorskip("sklearn.datasets").load_digits().data.astype(np.float32) / 16
    folder = tmp_path_factory.mktemp("autoencoder")
    trained = neural.MLPRegressor(hidden_layer_sizes=HIDDEN, batch_size=64, learning_rate_init=3e-3, random_state=0)
    for _ in range(30):
        trained.partial_fit(images[:1200], images[:1200])
    model = saved(folder / "autoencoder.onnx", trained.coefs_, trained.intercepts_)
    workload = Workload(
        name="autoencoder",
        model=model,
        calibration=ArraySamples(images[:300]),
        evaluation=ArraySamples(images[1200:], targets=images[1200:]),
        metric=Reconstruction(),
        methods=("cle_mse_gptq",),
    )
    return Pipeline(workload, Store(folder / "store"), Registry())


def saved(path: Path, weights: list[np.ndarray], biases: list[np.ndarray]) -> Path:
    nodes, held, last = [], [], "x"
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        held += [
            numpy_helper.from_array(each.astype(np.float32), f"{n}{index}") for n, each in (("w", weight), ("b", bias))
        ]
        made = "y" if index == len(weights) - 1 else f"h{index}"
        nodes.append(helper.make_node("Gemm", [last, f"w{index}", f"b{index}"], [made], name=f"layer{index}"))
        if made != "y":
            nodes.append(helper.make_node("Relu", [made], [f"r{index}"], name=f"relu{index}"))
        last = f"r{index}"
    entry, exit_ = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy")
    graph = helper.make_graph(nodes, "autoencoder", [entry], [exit_], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def measured(pipeline: Pipeline, method: str, dtype: str = "uint8", granularity: str = "channel") -> Measured:
    return pipeline.measured(Case("autoencoder", "onnxruntime", dtype, method, granularity), 0.95)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("method", ["mse_gptq", "cle_mse_gptq"])
def test_integers_reconstruct_within_two_percent_of_float(pipeline: Pipeline, method: str, granularity: str) -> None:
    found = measured(pipeline, method, granularity=granularity).compared
    assert found.fp32.value < 0.03  # a fifth of the variance of the inputs: it has learned something
    bar = Bar("*", "2 %", ceiling=WITHIN * found.fp32.value, min_sqnr_db=25.0)
    verdict = judge_accuracy("autoencoder", pipeline.metric, found, bar)
    assert verdict.name == PASS, verdict.reason
    census = pipeline.census(Case("autoencoder", "onnxruntime", "uint8", method, granularity))
    assert census.integer == {"Gemm": 4}


def test_the_gate_is_red_for_four_bits(pipeline: Pipeline) -> None:
    found = measured(pipeline, "minmax", "u4s4", "tensor").compared
    bar = Bar("*", "2 %", ceiling=WITHIN * found.fp32.value)
    verdict = judge_accuracy("autoencoder", pipeline.metric, found, bar)
    assert (verdict.name, verdict.red) == (FAIL, True)
    assert "reconstruction" in verdict.reason
    assert "> ceiling" in verdict.reason


def test_the_error_is_a_loss_in_the_units_of_the_input() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    score = Reconstruction().score({"y": x + np.float32([[0], [1], [2]])}, ArraySamples(x, targets=x))
    assert score.outcomes.tolist() == [0, 1, 4]
    assert score.value == pytest.approx(5 / 3)
    worse = Reconstruction().drop({"y": x + 2}, {"y": x + 1}, ArraySamples(x, targets=x), 0.95)
    assert worse.drop == pytest.approx(3)


@pytest.mark.parametrize("targets", [None, np.zeros((3, 5))])
def test_targets_that_are_not_the_inputs_are_named(targets: np.ndarray | None) -> None:
    with pytest.raises(BadData, match="the inputs as targets"):
        Reconstruction().score({"y": np.zeros((3, 4))}, ArraySamples(np.zeros((3, 4)), targets=targets))
