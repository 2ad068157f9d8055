"""An ONNX file is read without trusting it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign import write_model
from onnx import TensorProto, helper

from ptq.backends.onnxruntime.session import session
from ptq.errors import BadModel
from ptq.models.onnx_file import digest, load, signature


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weights lie in a file beside it."""
    write_model(tmp_path / "whole.onnx")
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(
        onnx.load(tmp_path / "whole.onnx"), folder / "m.onnx", save_as_external_data=True, location="w.bin",
        size_threshold=0,
    )  # fmt: skip
    return folder / "m.onnx"


def test_signature(tmp_path: Path) -> None:
    write_model(tmp_path / "m.onnx")
    have = signature(tmp_path / "m.onnx")
    assert (have.name, have.shape, have.dtype, have.batch) == ("x", (None, 8, 8, 1), "float32", None)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\xff\xff"])
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(BadModel, match=r"m\.onnx: .*"):
        signature(path)
    with pytest.raises(BadModel, match=r"m\.onnx: .*"):
        session(path)


def test_an_absent_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"m\.onnx: no such file"):
        load(tmp_path / "m.onnx")


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "g", values[:2], values[2:])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(BadModel, match=r"2 inputs \(a, b\), but should have exactly 1"):
        signature(tmp_path / "m.onnx")


def test_external_data_beside_the_model_is_read_and_part_of_its_digest(external: Path) -> None:
    assert len(load(external).graph.initializer) == 2
    before = digest(external)
    weights = external.with_name("w.bin")
    weights.write_bytes(bytes(reversed(weights.read_bytes())))
    assert digest(external) != before


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin"])
def test_external_data_outside_the_folder_is_refused(external: Path, location: str) -> None:
    (external.parent.parent / "secret.bin").write_bytes(bytes(4096))
    proto = onnx.load(external, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    external.write_bytes(proto.SerializeToString())
    for read in (load, digest, session):
        with pytest.raises(BadModel, match="lies outside the model's folder; refused"):
            read(external)


def test_a_session_computes_the_model(tmp_path: Path) -> None:
    write_model(tmp_path / "m.onnx")
    (result,) = session(tmp_path / "m.onnx").run(None, {"x": np.zeros((2, 8, 8, 1), np.float32)})
    np.testing.assert_allclose(result.sum(axis=1), 1, rtol=1e-6)
