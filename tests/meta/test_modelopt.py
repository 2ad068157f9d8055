"""ModelOpt through an interpreter of its own: found, asked, believed only when it delivers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptq.backends.modelopt import BACKENDS, VARIABLE
from ptq.backends.protocol import FloatModel
from ptq.cases import Case
from ptq.data.batch import only
from ptq.data.samples import ArraySamples, FittedSamples
from ptq.errors import BadModel
from ptq.models.onnx_file import signature
from ptq.quantization.calibration import Calibration

(BACKEND,) = BACKENDS
CASE = Case("w", "modelopt", "int8", "max", "channel")


@pytest.fixture
def model(tmp_path: Path) -> FloatModel:
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(generator.normal(0, 0.2, shape).astype(np.float32), name)
        for name, shape in (("w1", (16, 3, 3, 3)), ("w2", (16, 16, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["pixels", "w1"], ["a"], "c1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "r"),
        helper.make_node("Conv", ["b", "w2"], ["out"], "c2", pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 16, 16, 16])],
        weights,
    )
    path = tmp_path / "float.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return FloatModel(path, path)


@pytest.fixture
def calibration(model: FloatModel) -> Calibration:
    images = np.random.default_rng(1).random((4, 3, 16, 16), dtype=np.float32)
    return Calibration(FittedSamples(ArraySamples(images), signature(model.onnx), "calibration"), dict, {})


def interpreter(path: Path, script: str) -> str:
    """A stand-in for an environment's python: a shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_says_how_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert BACKEND.missing() == (
        f"not installed: name an interpreter that has nvidia-modelopt with --ptq-modelopt-python or {VARIABLE}"
    )


def test_an_interpreter_without_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for python, why in ((str(tmp_path / "absent"), "FileNotFoundError"), ("/bin/false", "CalledProcessError")):
        monkeypatch.setenv(VARIABLE, python)
        assert BACKEND.missing() == f"not installed: {VARIABLE}={python} has no nvidia-modelopt ({why})"


def test_its_versions_key_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = '{"nvidia-modelopt": "1.2", "onnxruntime": "3", "onnx": "4", "numpy": "5"}'
    monkeypatch.setenv(VARIABLE, interpreter(tmp_path / "python", f"echo '{said}'"))
    assert BACKEND.missing() is None
    assert BACKEND.versions()["modelopt's nvidia-modelopt"] == "1.2"
    assert BACKEND.versions()["modelopt's onnx"] == "4"


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo working; echo 'ValueError: no' >&2; exit 3", "ended with 3 and said: ValueError: no"),
     ("exit 0", "ended with 0 and said: nothing")],
)  # fmt: skip
def test_a_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: FloatModel, calibration: Calibration, script: str, said: str
) -> None:
    monkeypatch.setenv(VARIABLE, interpreter(tmp_path / "python", script))
    with pytest.raises(BadModel, match=f"^{CASE}: modelopt {said}$"):
        BACKEND.quantize(CASE, model, calibration, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_it_is_given_every_input_and_what_it_writes_is_the_artifact(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, calibration: Calibration, model: FloatModel
) -> None:
    script = f"""while [ $# -gt 0 ]; do case $1 in
--calibration_data_path) cp $2 {tmp_path}/given.npz;; --output_path) cp {model.onnx} $2;; esac; shift; done"""
    monkeypatch.setenv(VARIABLE, interpreter(tmp_path / "python", script))
    BACKEND.quantize(CASE, model, calibration, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == model.onnx.read_bytes()
    with np.load(tmp_path / "given.npz", allow_pickle=False) as given:
        assert given.files == ["pixels"]
        assert (given["pixels"] == calibration.samples.samples.inputs).all()
    batch = next(calibration.samples.batches(1))
    assert only(BACKEND.load(tmp_path / "out.onnx")(batch)).shape == (1, 16, 16, 16)
    assert BACKEND.signature(tmp_path / "out.onnx") == signature(model.onnx)


def test_what_it_does_not_do_has_a_reason() -> None:
    assert BACKEND.unsupported(CASE) is None
    reason = BACKEND.unsupported(Case("w", "modelopt", "u8s8", "max", "channel"))
    assert reason == "modelopt makes int8 per channel with its own methods alone: entropy, max"


def test_cases_are_known_without_it() -> None:
    assert [each.id for each in BACKEND.cases("w", {})] == [
        "w-modelopt-int8-entropy-channel",
        "w-modelopt-int8-max-channel",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["entropy", "max"])
def test_quantizes_with_the_tensor_it_is_given(
    method: str, tmp_path: Path, model: FloatModel, calibration: Calibration
) -> None:
    """The real tool, where there is one: both convolutions read int8, the weights are stored in it, bytes repeat."""
    if (missing := BACKEND.missing()) is not None:
        pytest.skip(missing)
    case = Case("w", "modelopt", "int8", method, "channel")
    assert BACKEND.quantize(case, model, calibration, tmp_path / "a.onnx") == {"calibration": "own observers"}
    BACKEND.quantize(case, model, calibration, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    graph = onnx.load(tmp_path / "a.onnx").graph
    producer = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [each for each in graph.node if each.op_type == "Conv"]
    assert len(convolutions) == 2
    assert {producer[name] for each in convolutions for name in each.input[:2]} == {"DequantizeLinear"}
    int8 = [each for each in graph.initializer if each.data_type == TensorProto.INT8 and len(each.dims) == 4]
    assert len(int8) == 2
    batch = next(calibration.samples.batches(1))
    want, have = (only(BACKEND.load(path)(batch)) for path in (model.onnx, tmp_path / "a.onnx"))
    noise = float(((want - have) ** 2).sum() / (want**2).sum())
    assert 0 < noise < 0.01
