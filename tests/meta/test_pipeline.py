"""Pipeline: what changes an artifact is part of its key, and calibration images keep the contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from foreign import images, write_model

from ptq import pipeline as pipeline_module
from ptq.cases import Case
from ptq.contract import ContractBroken, InputContract
from ptq.pipeline import Pipeline
from ptq.samples import ArraySamples
from ptq.store import Store
from ptq.workload import Source, Workload

CASE = Case("mine", "onnxruntime", "u8s8", "minmax")


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    write_model(tmp_path / "model.onnx")
    x, y = images(60)
    contract = InputContract((None, 8, 8, 1), "NHWC", low=0, high=16)
    return Workload(
        "mine", tmp_path / "model.onnx", ArraySamples(x[:30], y[:30]), ArraySamples(x[30:], y[30:]), contract
    )


def test_another_keras_file_is_another_model(workload: Workload, tmp_path: Path) -> None:
    keras, store = tmp_path / "model.h5", Store(tmp_path / "cache")
    converted = replace(workload, model=lambda _: Source(tmp_path / "model.onnx", keras))
    digests = {Pipeline(workload, store).model_digest}
    for content in (b"one", b"two"):
        keras.write_bytes(content)
        digests.add(Pipeline(converted, store).model_digest)
    assert len(digests) == 3


@pytest.mark.parametrize("library", ["onnxruntime", "opencv-python-headless"])
def test_another_version_makes_an_artifact_anew_whatever_the_backend(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """A backend that does not run on onnxruntime takes its ranges from onnxruntime's pass all the same."""
    backends = pipeline_module.backends()
    monkeypatch.setattr(backends["torch"], "missing", lambda: None, raising=False)
    monkeypatch.setattr(backends["torch"], "versions", lambda: {"torch": "0"}, raising=False)
    monkeypatch.setattr(backends["torch"], "quantize", lambda *given: given[-1].write_bytes(b"") or {}, raising=False)
    case, store = Case("mine", "torch", "int8", "minmax"), Store(tmp_path / "cache")
    pipeline_module._versions.cache_clear()
    try:
        first = Pipeline(workload, store).artifact(case)
        assert not Pipeline(workload, store).artifact(case).made
        pipeline_module._versions.cache_clear()
        if library in backends:
            monkeypatch.setattr(backends[library], "versions", lambda: {library: "0"}, raising=False)
        else:
            monkeypatch.setattr(pipeline_module, "environment", lambda: {"libraries": {library: "0"}})
        again = Pipeline(workload, store).artifact(case)
    finally:
        pipeline_module._versions.cache_clear()
    assert again.made
    assert again.path != first.path


def test_calibration_images_keep_the_contract_whatever_the_backend_reads(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Case] = []
    monkeypatch.setattr(
        pipeline_module.backends()["onnxruntime"], "quantize", lambda case, *_: calls.append(case), raising=False
    )
    broken = replace(workload, contract=replace(workload.contract, high=9))
    with pytest.raises(ContractBroken, match=r"should be in \[0, 9\]"):
        Pipeline(broken, Store(tmp_path / "cache")).artifact(CASE)
    assert calls == []
