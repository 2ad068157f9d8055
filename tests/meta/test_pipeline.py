"""Pipeline: what changes an artifact is part of its key, samples keep the contract, and nothing is made twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import images, write_model
from onnx import helper, numpy_helper

from ptq.backends.onnxruntime import OnnxRuntime
from ptq.cases import Case
from ptq.data.contract import ContractBroken, InputContract
from ptq.data.reader import Reader
from ptq.data.samples import ArraySamples
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.engine.workload import Artifact, Source, Workload
from ptq.errors import BadData, PtqError
from ptq.files import write_bytes
from ptq.models.onnx_file import load
from ptq.quantization.calibration import Calibration
from ptq.quantization.method import EXTREMES, HISTOGRAM, Method, Transform
from ptq.quantization.methods.minmax import minmax

CASE = Case("mine", "onnxruntime", "uint8", "minmax")


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    write_model(tmp_path / "model.onnx")
    x, y = images(60)
    contract = InputContract((None, 8, 8, 1), "NHWC", low=0, high=16)
    return Workload(
        "mine", tmp_path / "model.onnx", ArraySamples(x[:30], y[:30]), ArraySamples(x[30:], y[30:]), contract
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_another_keras_file_is_another_model(workload: Workload, store: Store, tmp_path: Path) -> None:
    keras = tmp_path / "model.h5"
    converted = replace(workload, model=lambda: Source(tmp_path / "model.onnx", keras))
    made = [Pipeline(workload, store).artifact(CASE)]
    for content in (b"one", b"two"):
        keras.write_bytes(content)
        made.append(Pipeline(converted, store).artifact(CASE))
    assert [entry.made for entry in made] == [True] * 3
    assert len({entry.path for entry in made}) == 3


class Other(OnnxRuntime):
    """A backend whose version a test sets."""

    name = "other"

    def __init__(self, version: str) -> None:
        self._version = version

    def versions(self) -> dict[str, str]:
        return {"other": self._version}

    def cases(self, workload: str, methods: Any) -> Iterator[Case]:
        yield Case(workload, self.name, "uint8", "minmax")


def test_another_version_makes_an_artifact_anew(workload: Workload, store: Store) -> None:
    case = replace(CASE, backend="other")

    def made(version: str) -> bool:
        return Pipeline(workload, store, Registry((Other(version),))).artifact(case).made

    assert [made("1"), made("1"), made("2"), made("1")] == [True, False, True, False]


def test_another_version_of_onnxruntime_makes_it_anew_whatever_the_backend(
    workload: Workload, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that does not run on onnxruntime takes its ranges from onnxruntime's pass all the same."""
    from ptq.engine import artifact

    case, registry = replace(CASE, backend="other"), Registry((Other("1"),))
    first = Pipeline(workload, store, registry).artifact(case)
    monkeypatch.setattr(artifact, "versions", lambda libraries: dict.fromkeys(libraries, "0"))
    again = Pipeline(workload, store, registry).artifact(case)
    assert again.made
    assert again.path != first.path


def test_calibration_samples_keep_the_contract_whatever_the_backend_reads(workload: Workload, store: Store) -> None:
    assert isinstance(workload.contract, InputContract)
    broken = replace(workload, contract=replace(workload.contract, high=9))
    with pytest.raises(ContractBroken, match=r"mine: calibration: batch.* should be in \[0, 9\]"):
        Pipeline(broken, store).artifact(CASE)
    assert not list(store.root.glob("artifact/??/*"))


def test_evaluation_samples_keep_the_contract(workload: Workload, store: Store) -> None:
    x, y = images(60)
    x[45, 0, 0, 0] = 99
    with pytest.raises(ContractBroken, match=r"mine: evaluation: batch\[15\].*=99"):
        Pipeline(replace(workload, evaluation=ArraySamples(x[30:], y[30:])), store).measured(CASE, 0.95)


def test_a_reader_is_not_called_where_nothing_changed(workload: Workload, store: Store, tmp_path: Path) -> None:
    x, y = images(60)
    np.save(tmp_path / "x.npy", x[30:])
    calls = tmp_path / "calls"  # not a list: what a function closes over is part of what it is
    calls.mkdir()

    def read() -> ArraySamples:
        (calls / str(len(list(calls.iterdir())))).touch()
        return ArraySamples(np.load(tmp_path / "x.npy"), y[30:])

    reading = replace(workload, evaluation=Reader(read, lambda: [tmp_path / "x.npy"]))
    first = Pipeline(reading, store).measured(CASE, 0.95).compared
    assert len(list(calls.iterdir())) == 1
    second = Pipeline(reading, store).measured(CASE, 0.95).compared
    assert len(list(calls.iterdir())) == 1
    assert second.score.value == first.score.value
    np.save(tmp_path / "x.npy", x[30:][::-1])
    third = Pipeline(reading, store).measured(CASE, 0.95).compared
    assert len(list(calls.iterdir())) == 2
    assert third.score.value < first.score.value


def test_a_second_pipeline_makes_nothing(workload: Workload, store: Store) -> None:
    first = Pipeline(workload, store)
    first.measured(CASE, 0.95)
    first.census(CASE)
    before = dict(store.counts)
    again = Pipeline(workload, store)
    again.measured(CASE, 0.95)
    again.census(CASE)
    after = store.counts
    assert {key: after[key] - before.get(key, 0) for key in after if key[1] == "made"} == dict.fromkeys(
        [key for key in after if key[1] == "made"], 0
    )


@pytest.mark.parametrize("name", ["minmax", "mse_gptq"])
def test_an_artifact_called_like_a_method_is_refused(workload: Workload, store: Store, name: str) -> None:
    given = replace(workload, artifacts={name: Artifact("onnxruntime", "uint8", Path("model.onnx"))})
    with pytest.raises(PtqError, match=f"{name}.*call it something else"):
        Pipeline(given, store).cases()


def test_a_model_of_several_inputs_wants_a_contract_for_each(workload: Workload, store: Store) -> None:
    wrong = replace(workload, contract={"y": InputContract((None, 8, 8, 1))})
    with pytest.raises(BadData, match=r"contract of 'y', but model\.onnx takes x"):
        _ = Pipeline(wrong, store).source


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"wrong": np.zeros((4, 8, 8, 1), np.float32)}, "no input 'x' among 'wrong'"),
        (np.zeros((4, 8, 8), np.float32), "one sample without a batch dimension"),
        (np.zeros((4, 1, 8, 8), np.float32), "NHWC and NCHW swapped"),
        (np.array([["a"] * 8] * 4), "shape"),
    ],
)
def test_samples_that_do_not_fit_the_model_are_one_line(
    workload: Workload, store: Store, inputs: Any, words: str
) -> None:
    with pytest.raises(BadData, match=words) as caught:
        Pipeline(replace(workload, calibration=ArraySamples(inputs), contract=None), store).artifact(CASE)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("mine: calibration: ")


def negated_twice(model: Path, out: Path, calibration: Calibration) -> dict[str, str]:
    """The first layer's weights negated, and its output negated again: the same function."""
    proto = load(model)
    first = next(node for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "MatMul"))
    weights = next(each for each in proto.graph.initializer if each.name == first.input[1])
    weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
    if len(first.input) > 2:
        bias = next(each for each in proto.graph.initializer if each.name == first.input[2])
        bias.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(bias), bias.name))
    output, first.output[0] = first.output[0], "negated"
    back = helper.make_node("Neg", ["negated"], [output], "back")
    proto.graph.node.insert(list(proto.graph.node).index(first) + 1, back)
    write_bytes(out, proto.SerializeToString())
    return {"negated": f"{len(calibration.statistics())} tensors seen before"}


def test_a_transform_is_done_once_before_tensors_are_measured_and_only_where_it_is_asked_for(
    workload: Workload, store: Store
) -> None:
    transform = Transform("negate", negated_twice, frozenset({HISTOGRAM}))
    methods = tuple(
        Method(name, minmax, frozenset({EXTREMES}), transforms=(transform,), listed=False)
        for name in ("neg_a", "neg_b")
    )
    registry = Registry(extra_methods=methods)
    assert not {"neg_a", "neg_b"} & {case.method for case in Pipeline(workload, store, registry).cases()}
    pipeline = Pipeline(replace(workload, methods=("neg_a",)), store, registry)
    assert {"neg_a"} == {"neg_a", "neg_b"} & {case.method for case in pipeline.cases()}
    plain, one, other = (pipeline.artifact(replace(CASE, method=name)) for name in ("minmax", "neg_a", "neg_b"))
    kinds = [[node.op_type for node in load(entry.path).graph.node] for entry in (plain, one, other)]
    assert "Neg" not in kinds[0]
    assert "Neg" in kinds[1]
    assert kinds[1] == kinds[2]
    assert store.counts["model", "made"] == 2  # the prepared model, and that model negated
    held = {each.name for each in load(one.path).graph.initializer}
    assert "negated_scale" in held  # measured on the model as it is now
    assert pipeline.measured(replace(CASE, method="neg_a"), 0.95).compared.agreement
