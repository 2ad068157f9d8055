"""quantize: what ptq adds to quantize_static's own decisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptq.backends.onnxruntime.quantize import quantize
from ptq.models.session import session
from ptq.quantization.dtype import DTYPES
from ptq.quantization.method import Range
from ptq.quantization.plan import Plan

RANGES: dict[str, Range] = {"x": (-10.0, 10.0), "logits": (-40.0, 40.0), "p": (0.0, 1.0)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A Gemm that hands its input on fourfold, and a Softmax."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["logits"], name="g"),
        helper.make_node("Softmax", ["logits"], ["p"], name="s"),
    ]
    held = [numpy_helper.from_array(4 * np.eye(3, dtype=np.float32), "w")]
    held.append(numpy_helper.from_array(np.zeros(3, np.float32), "b"))
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xp"]
    graph = helper.make_graph(nodes, "graph", [value[0]], [value[1]], held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(made), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_a_certain_answer_stays_certain(dtype: str, model: Path, tmp_path: Path) -> None:
    """In integer kernels as in the graph as written; with quantize_static's own scale it came out as 254 of 255."""
    quantize(model, Plan(DTYPES[dtype], RANGES, False), tmp_path / "q.onnx")
    certain = np.array([[10, -10, -10]], np.float32)
    for optimize in (True, False):
        (answer,) = session(tmp_path / "q.onnx", optimize=optimize).run(None, {"x": certain})[0]
        assert answer.tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    held = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "q.onnx").graph.initializer}
    quantizer = DTYPES[dtype].quantizer
    np.testing.assert_array_max_ulp(held["p_scale"], np.float32(1 / (quantizer.levels - 1)), maxulp=1)
    assert held["p_zero_point"] == quantizer.qmin


def test_each_of_two_nameless_softmaxes_has_the_scale(model: Path, tmp_path: Path) -> None:
    changed = onnx.load(model)
    changed.graph.node[1].name = ""
    changed.graph.node.append(helper.make_node("Softmax", ["logits"], ["q"]))
    changed.graph.output.append(helper.make_tensor_value_info("q", TensorProto.FLOAT, ["n", 3]))
    onnx.save(changed, model)
    quantize(model, Plan(DTYPES["u8s8"], {**RANGES, "q": (0.0, 1.0)}, False), tmp_path / "q.onnx")
    held = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert held["p_scale"] == held["q_scale"] < np.float32(1 / 255)


def test_a_softmax_in_float_is_left_alone(model: Path, tmp_path: Path) -> None:
    quantize(model, Plan(DTYPES["u8s8"], RANGES, False, exclude=["s"]), tmp_path / "q.onnx")
    assert "p_scale" not in {each.name for each in onnx.load(tmp_path / "q.onnx").graph.initializer}
