"""Pipeline: what changes an artifact is part of its key, samples keep the contract, and nothing is made twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import images, write_model

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
