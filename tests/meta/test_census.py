"""ptq.backends.onnxruntime.census: counts what runs, not what the file says."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptq.backends.onnxruntime.census import _FLOAT, _INTEGER, census, count
from ptq.backends.protocol import COUNTED
from ptq.errors import BadModel
from ptq.gate.bars import Bar
from ptq.gate.verdict import FAIL, PASS, judge_structure

X86 = platform.machine().lower() in ("x86_64", "amd64")
BAR = Bar("*", "test", floor=0.5, min_integer_share=1.0)


def convolutions(path: Path) -> Path:
    """Conv, Relu, Conv, Add of both, MaxPool, GlobalAveragePool, Gemm: one of each kind, 8 channels."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((0.2 * random.standard_normal(shape)).astype(np.float32), name)

    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], "conv0", pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        node("Add", ["r0", "c1"], ["s"], "add"),
        node("MaxPool", ["s"], ["m"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["m"], ["g"], "mean"),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "w2"], ["y"], "dense", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [weight("w0", 8, 3, 3, 3), weight("w1", 8, 8, 3, 3), weight("w2", 10, 8)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convolutions(tmp_path_factory.mktemp("census") / "float.onnx")


def quantized(
    model: Path, out: Path, activation: str, weight: str, form: str = "QDQ", exclude: tuple[str, ...] = ()
) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            random = np.random.default_rng(1)
            self._batches: Iterator[np.ndarray] = iter(random.standard_normal((4, 4, 3, 8, 8)).astype(np.float32))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"x": batch}

    quantize_static(
        model,
        out,
        Reader(),
        quant_format=QuantFormat[form],
        activation_type=QuantType[activation],
        weight_type=QuantType[weight],
        nodes_to_exclude=list(exclude),
    )
    return out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_u8s8_runs_in_integer(form: str, float_model: Path, tmp_path: Path) -> None:
    found = census(quantized(float_model, tmp_path / "q.onnx", "QUInt8", "QInt8", form))
    kinds = {"Add": 1, "Conv": 2, "Gemm": 1, "GlobalAveragePool": 1, "MaxPool": 1}
    assert dict(found.integer) == kinds
    assert dict(found.floating) == {}
    assert (found.integer_share, found.stray, found.float_nodes, found.cause) == (1.0, 0, (), None)
    assert dict(found.weight_bytes) == {"int8": 8 * 3 * 9 + 8 * 8 * 9 + 80}
    assert judge_structure("case", found, BAR).name == PASS


def test_the_float_model_runs_in_float(float_model: Path) -> None:
    found = census(float_model)
    assert dict(found.integer) == {}
    assert found.floating["Conv"] == 2
    assert found.floating["Gemm"] == 1
    assert (found.integer_share, found.stray, found.cause) == (0.0, 0, None)
    assert set(found.weight_bytes) == {"float32"}
    assert found.weight_bytes["float32"] >= 4 * (8 * 3 * 9 + 8 * 8 * 9 + 80)  # blocked layouts pad


@pytest.mark.skipif(not X86, reason="onnxruntime has int8 activation kernels on other machines")
@pytest.mark.filterwarnings("ignore")
def test_int8_activations_run_in_float_on_x86(float_model: Path, tmp_path: Path) -> None:
    found = census(quantized(float_model, tmp_path / "q.onnx", "QInt8", "QInt8"))
    assert found.floating["Conv"] >= 1
    assert found.stray >= 4
    assert found.integer_share < 1
    verdict = judge_structure("case", found, BAR)
    assert (verdict.name, verdict.red) == (FAIL, True)
    assert "likely cause: int8 activations" in verdict.reason
    assert found.float_nodes[0] in verdict.reason


@pytest.mark.filterwarnings("ignore")
def test_excluded_nodes_are_named(float_model: Path, tmp_path: Path) -> None:
    found = census(quantized(float_model, tmp_path / "q.onnx", "QUInt8", "QInt8", exclude=("conv1", "add")))
    assert found.floating["Conv"] == 1  # the Add may be fused into it
    assert found.integer["Conv"] == 1
    assert any("conv1" in each for each in found.float_nodes), found.float_nodes
    assert found.stray >= 2  # a DQ before, a Q after
    assert found.cause is not None
    assert "left out of quantization" in found.cause


def test_the_file_of_another_kind_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(BadModel, match=r"bad\.onnx"):
        census(tmp_path / "bad.onnx")


def graph_of(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto] | None = None) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "test", [], [], weights or []))


def test_fused_and_layout_variants_are_the_same_kind() -> None:
    node = helper.make_node
    found = count(
        graph_of(
            [
                node("Conv", ["a"], ["b"], domain="com.microsoft.nchwc"),
                node("FusedConv", ["b"], ["c"], domain="com.microsoft"),
                node("FusedMatMul", ["c"], ["d"], domain="com.microsoft"),
                node("MatMulInteger", ["e"], ["f"]),
                node("DynamicQuantizeMatMul", ["f"], ["g"], domain="com.microsoft"),
                node("Softmax", ["d"], ["h"]),
            ]
        )
    )
    assert dict(found.floating) == {"Conv": 2, "MatMul": 1}
    assert dict(found.integer) == {"MatMul": 2}
    assert found.integer_share == pytest.approx(0.4)
    assert found.float_nodes == ("b", "c", "d")


def test_quantizers_are_stray_through_what_hands_on() -> None:
    node = helper.make_node
    nodes = [
        node(
            "QuantizeLinear", ["x", "s", "z"], ["xq"]
        ),  # at the graph's edge, but only float takes it: its DQ is stray
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("Transpose", ["xd"], ["xt"]),
        node("Conv", ["xt", "w"], ["y"], "conv"),
        node("Reshape", ["y", "shape"], ["yr"]),
        node("QuantizeLinear", ["yr", "s", "z"], ["yq"]),
        node("DequantizeLinear", ["yq", "s", "z"], ["out"]),
    ]
    zero = numpy_helper.from_array(np.array(0, np.int8), "z")
    found = count(graph_of(nodes, [zero]))
    assert found.stray == 2
    assert found.integer_share == 0.0
    assert found.cause is not None


def test_only_what_every_backend_counts_is_counted() -> None:
    assert set(_FLOAT.values()) == COUNTED
    assert set(_INTEGER.values()) <= COUNTED
    kinds = [*sorted(COUNTED), "Relu", "Softmax", "LayerNormalization", "RNN"]
    found = count(graph_of([helper.make_node(kind, ["x"], [f"y{kind}"]) for kind in kinds]))
    assert dict(found.floating) == dict.fromkeys(sorted(COUNTED), 1)


def test_a_pool_of_integers_is_integer_and_shape_arithmetic_is_none() -> None:
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("Transpose", ["xq"], ["xt"]),
        node("MaxPool", ["xt"], ["m"], kernel_shape=[2, 2]),
        node("Add", ["i", "j"], ["k"]),
    ]
    model = graph_of(nodes)
    model.graph.value_info.append(helper.make_tensor_value_info("k", TensorProto.INT64, [1]))
    found = count(model)
    assert dict(found.integer) == {"MaxPool": 1}
    assert dict(found.floating) == {}


def test_nodes_of_branches_count() -> None:
    def branch(name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("MatMul", ["a", "b"], [name])], name, [], [output])

    choose = helper.make_node("If", ["condition"], ["y"], then_branch=branch("t"), else_branch=branch("e"))
    assert dict(count(graph_of([choose])).floating) == {"MatMul": 2}


def test_simulated_integers_are_none(float_model: Path) -> None:
    simulated = replace(census(float_model), integer={"Conv": 2}, floating={}, simulated="in float")
    assert simulated.integer_share == 0.0
