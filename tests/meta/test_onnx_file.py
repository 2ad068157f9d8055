"""An ONNX file is read without trusting it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign import write_model
from onnx import TensorProto, helper

from ptq.backends.onnxruntime import BACKENDS
from ptq.data.signature import Tensor
from ptq.errors import BadModel
from ptq.models.onnx_file import digest, files, load, serialized, signature, write_whole
from ptq.models.session import session


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
    assert have.inputs == (Tensor("x", (None, 8, 8, 1), "float32"),)
    assert have.batch is None


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


def test_every_input_has_its_name_dtype_and_shape(tmp_path: Path) -> None:
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "length"])
    scale = helper.make_tensor_value_info("scale", TensorProto.FLOAT, [2, 1])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", "length"])
    nodes = [helper.make_node("Cast", ["ids"], ["real"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("Mul", ["real", "scale"], ["out"]))
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [ids, scale], [out])), tmp_path / "m.onnx")
    have = signature(tmp_path / "m.onnx")
    assert have.inputs == (Tensor("ids", (None, None), "int64"), Tensor("scale", (2, 1), "float32"))
    assert have.outputs == (Tensor("out", (None, None), "float32"),)


def test_external_data_beside_the_model_is_read_and_part_of_its_digest(external: Path) -> None:
    assert len(load(external).graph.initializer) == 2
    assert files(external) == [external, external.with_name("w.bin")]
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


@pytest.mark.parametrize("place", ["attribute", "subgraph", "subgraph attribute", "function"])
def test_external_data_is_found_wherever_it_hides(place: str, tmp_path: Path) -> None:
    """ONNX allows a tensor in many places; each of them may name a file."""
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    hidden = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="../secret.bin")
    constant = helper.make_node("Constant", [], ["c"], value=hidden)
    out = helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])
    held = [hidden] if place == "subgraph" else []
    inner = helper.make_graph([constant] if place == "subgraph attribute" else [], "g", [], [out], held)
    choose = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    functions = [helper.make_function("own", "F", [], ["c"], [constant], [helper.make_opsetid("", 17)])]
    graph = helper.make_graph(
        [constant if place == "attribute" else choose],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.BOOL, [])],
        [],
    )
    model = helper.make_model(graph, functions=functions if place == "function" else [])
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    for read in (load, digest, files, session):
        with pytest.raises(BadModel, match=r"m\.onnx: external data '../secret.bin' lies outside"):
            read(folder / "m.onnx")


def test_a_model_larger_than_onnx_allows_is_named() -> None:
    class Large:
        def SerializeToString(self) -> bytes:
            raise ValueError("Message onnx.ModelProto exceeds maximum protobuf size of 2GB: 2149000000")

    with pytest.raises(BadModel, match=r"^big\.onnx: too large for one file, ONNX allows 2 GB \(Message"):
        serialized(Large(), Path("big.onnx"))


def test_a_model_with_external_data_is_known_by_its_own_name(external: Path, tmp_path: Path) -> None:
    """Counted, listed and run as it lies; copied as one file; and named where its weights are not whole."""
    (backend,) = BACKENDS
    found = backend.census(external)
    assert dict(found.floating) == {"Gemm": 1}
    assert found.weight_bytes == backend.census(external.parent.parent / "whole.onnx").weight_bytes
    assert [kind for _, kind, _ in backend.inspect(external)] == ["Flatten", "Gemm", "Softmax"]
    write_whole(external, tmp_path / "copy.onnx")
    batch = {"x": np.zeros((2, 8, 8, 1), np.float32)}
    want, have = (next(iter(backend.load(path)(batch).values())) for path in (external, tmp_path / "copy.onnx"))
    assert (want == have).all()
    external.with_name("w.bin").write_bytes(b"short")
    for use in (backend.census, backend.load, lambda path: list(backend.inspect(path))):
        with pytest.raises(BadModel, match=rf"^{re.escape(str(external))}: "):
            use(external)


def test_a_session_computes_the_model(tmp_path: Path) -> None:
    write_model(tmp_path / "m.onnx")
    (result,) = session(tmp_path / "m.onnx").run(None, {"x": np.zeros((2, 8, 8, 1), np.float32)})
    np.testing.assert_allclose(result.sum(axis=1), 1, rtol=1e-6)
