"""Dynamic quantization: onnxruntime's own, and products on grids that were chosen already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_encoder import WIDTH, WORDS, sentences, write_encoder
from small_model import IMAGES, small_model

from ptq.backends.onnxruntime import BACKENDS
from ptq.backends.onnxruntime.dynamic import by_default, on_grids
from ptq.calibration.statistics_pass import statistics
from ptq.cases import Case
from ptq.data.batch import fitted
from ptq.data.samples import ArraySamples
from ptq.data.signature import Signature, Tensor
from ptq.engine.pipeline import Pipeline
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import Unsupported
from ptq.models.session import session
from ptq.quantization import weights
from ptq.quantization.dtype import DTYPES
from ptq.quantization.exclude import choose_exclude
from ptq.quantization.plan import Plan, WeightGrid

BACKEND = BACKENDS[0]


def pipeline(tmp_path: Path, model: Path, samples: Any, methods: tuple[str, ...] = ("dynamic",)) -> Pipeline:
    return Pipeline(Workload("w", model, samples, samples, methods=methods), Store(tmp_path / "store"))


def test_dynamic_is_listed_where_a_workload_names_it(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx")
    named = [case for case in pipeline(tmp_path, model, IMAGES).cases() if case.method == "dynamic"]
    assert {(case.backend, case.dtype) for case in named} == {
        ("onnxruntime", name) for name in ("uint8", "u8s8", "u8s7")
    }
    assert not [case for case in pipeline(tmp_path, model, IMAGES, ()).cases() if case.method.startswith("dynamic")]


def test_a_model_of_convolutions_alone_is_unsupported_in_words(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "c")],
        "conv",
        [helper.make_tensor_value_info("x", 1, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["n", 4, 6, 6])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    for method in ("dynamic", "dynamic_smooth_gptq"):
        judged = pipeline(tmp_path, tmp_path / "m.onnx", IMAGES, (method,))
        with pytest.raises(Unsupported, match=r"m\.onnx: no MatMul or Gemm with constant weights"):
            judged.artifact(Case("w", "onnxruntime", "u8s8", method))


def test_activations_are_uint8_alone(tmp_path: Path) -> None:
    model = write_encoder(tmp_path / "m.onnx")
    for make in (by_default, on_grids):
        with pytest.raises(Unsupported, match="to uint8 alone"):
            make(model, Plan(DTYPES["int8"], {}, True), tmp_path / "q.onnx")


@pytest.mark.parametrize("method", ["dynamic", "dynamic_smooth_gptq"])
def test_every_product_of_constant_weights_runs_in_integer(method: str, tmp_path: Path) -> None:
    judged = pipeline(tmp_path, write_encoder(tmp_path / "m.onnx"), sentences(40), (method,))
    case = Case("w", "onnxruntime", "u8s7", method, "channel")
    census = judged.census(case)
    assert census.integer == {"MatMul": 4}
    assert census.floating["MatMul"] == 2  # of activations with activations
    assert judged.measured(case, 0.95).compared.cosine > 0.99


def emulated(x: np.ndarray, integers: np.ndarray, zero: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """DynamicQuantizeLinear and MatMulInteger as ONNX has them; `integers` are (length, outputs)."""
    step = np.float32((max(0, x.max()) - min(0, x.min())) / 255)
    point = np.clip(np.rint(-min(0, x.min()) / step), 0, 255)
    quantized = np.clip(np.rint(x / step) + point, 0, 255) - point
    return (quantized.astype(np.int64) @ (integers - zero).astype(np.int64)) * (step * scale)


@pytest.mark.parametrize("dtype", ["uint8", "u8s7"])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_gemm_on_its_grid_is_what_onnx_says(dtype: str, transposed: int, per_channel: bool, tmp_path: Path) -> None:
    random, kind = np.random.default_rng(0), DTYPES[dtype]
    weight = random.normal(size=(WIDTH, 24)).astype(np.float32)
    bias, x = random.normal(size=24).astype(np.float32), random.normal(size=(50, WIDTH)).astype(np.float32)
    axis = 1 if per_channel else None
    scale, zero = kind.weight_quantizer.grids(*weights.ranges(weight, axis))
    integers = kind.weight_quantizer.quantize(weight, scale, zero)
    on_grid = kind.weight_quantizer.dequantize(integers, scale, zero)
    held = {"w": on_grid.T.copy() if transposed else on_grid, "b": bias}
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "g", transB=transposed, beta=0.5)],
        "gemm",
        [helper.make_tensor_value_info("x", 1, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", 1, ["n", 24])],
        [numpy_helper.from_array(values, name) for name, values in held.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    grids = {"w": WeightGrid(kind.weight, scale, zero, None if axis is None else 1 - transposed)}
    on_grids(tmp_path / "m.onnx", Plan(kind, {}, per_channel, grids=grids), tmp_path / "q.onnx")
    found = session(tmp_path / "q.onnx").run(None, {"x": x})[0]
    assert found == pytest.approx(emulated(x, integers, zero, scale) + bias / 2, abs=1e-4)
    stored = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert "w" not in stored
    assert stored["y_weights"].dtype == kind.weight.numpy
    assert np.abs(stored["y_weights"].astype(int)).max() <= (63 if dtype == "u8s7" else 255)


def test_a_row_of_a_table_is_held_by_its_own_scale(tmp_path: Path) -> None:
    model = onnx.load(write_encoder(tmp_path / "m.onnx"))
    words = next(each for each in model.graph.initializer if each.name == "words")
    table = numpy_helper.to_array(words).copy()
    table[7] *= 1000
    words.CopyFrom(numpy_helper.from_array(table, "words"))
    model.graph.output.append(helper.make_tensor_value_info("x", 1, ["n", "length", WIDTH]))
    onnx.save(model, tmp_path / "m.onnx")
    on_grids(tmp_path / "m.onnx", Plan(DTYPES["uint8"], {}, True), tmp_path / "q.onnx")
    ids = np.arange(WORDS)[None]
    rows = session(tmp_path / "q.onnx").run(["x"], {"ids": ids, "mask": np.ones_like(ids)})[0][0]
    assert (np.abs(rows - table).max(axis=1) <= np.abs(table).max(axis=1) / 254 * 1.001).all()


def test_a_mask_constant_sets_no_scale(tmp_path: Path) -> None:
    """Found by what calibration saw: the Add that brings it in and the Softmax behind it stay in float."""
    model, samples = write_encoder(tmp_path / "m.onnx"), sentences(40)
    padded = {name: [*rows, np.concatenate([rows[0], rows[0] * 0])] for name, rows in dict(samples.inputs).items()}
    seen = statistics(model, type(samples)(padded))
    assert seen["bias"].min < -1e38
    kept = {each.node for each in choose_exclude(model, ["auto"], lambda: seen)}
    assert {"masked", "share"} <= kept
    assert not {"q", "k", "v", "out"} & kept
    judged = pipeline(tmp_path, model, type(samples)(padded))
    made = onnx.load(judged.artifact(Case("w", "onnxruntime", "uint8", "minmax", "channel", "auto")).path)
    scales = {each.name: numpy_helper.to_array(each) for each in made.graph.initializer if each.name.endswith("_scale")}
    assert scales
    assert max(float(each.max()) for each in scales.values()) < 1e3


def test_a_residual_sum_is_not_fused_with_its_normalization(tmp_path: Path) -> None:
    """onnxruntime's SkipLayerNormalization takes longer than the Add and the LayerNormalization that it stands for."""
    random = np.random.default_rng(0)
    held = {name: random.normal(size=(WIDTH, WIDTH)).astype(np.float32) for name in ("w", "v")}
    held |= {name: random.normal(size=WIDTH).astype(np.float32) for name in ("b", "gamma", "beta")}
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("LayerNormalization", ["x", "gamma", "beta"], ["first"], "first"),
            node("MatMul", ["first", "w"], ["hidden"], "hidden"),
            node("Relu", ["hidden"], ["active"], "active"),
            node("MatMul", ["active", "v"], ["product"], "product"),
            node("Add", ["product", "b"], ["biased"], "biased"),
            node("Add", ["biased", "first"], ["sum"], "sum"),
            node("LayerNormalization", ["sum", "gamma", "beta"], ["y"], "last"),
        ],
        "residual",
        [helper.make_tensor_value_info("x", 1, ["n", "length", WIDTH])],
        [helper.make_tensor_value_info("y", 1, ["n", "length", WIDTH])],
        [numpy_helper.from_array(values, name) for name, values in held.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    samples = ArraySamples({"x": random.normal(size=(40, 7, WIDTH)).astype(np.float32)})
    judged = pipeline(tmp_path, tmp_path / "m.onnx", samples, ("dynamic", "dynamic_smooth_gptq"))

    def executed(method: str) -> set[str]:
        made = judged.artifact(Case("w", "onnxruntime", "u8s7", method, "channel")).path
        session(made, save_to=tmp_path / "executed.onnx")
        return {each.op_type for each in onnx.load(tmp_path / "executed.onnx").graph.node}

    assert "SkipLayerNormalization" in executed("dynamic"), "what the runtime does with its own"
    own = executed("dynamic_smooth_gptq")
    assert "SkipLayerNormalization" not in own
    assert "DynamicQuantizeMatMul" in own, "the bias is still added by the product's kernel"
    assert (
        judged.measured(Case("w", "onnxruntime", "u8s7", "dynamic_smooth_gptq", "channel"), 0.95).compared.cosine > 0.99
    )


def infinite(path: Path) -> Path:
    """The encoder with a mask of -inf: where there is no word, -inf is added."""
    model = onnx.load(write_encoder(path))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(-np.inf), "inf"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    far = next(each for each in model.graph.node if each.name == "far")
    there = helper.make_node("Cast", ["mask"], ["there"], "there", to=9)
    where = helper.make_node("Where", ["there", "nothing", "inf"], ["far"], "far")
    at = list(model.graph.node).index(far)
    nodes = [*model.graph.node[:at], there, where, *model.graph.node[at + 1 :]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path


def test_a_mask_of_minus_infinity_stays_in_float(tmp_path: Path) -> None:
    samples = sentences(40)
    rows = {name: [*each, np.concatenate([each[0], each[0] * 0])] for name, each in dict(samples.inputs).items()}
    judged = pipeline(tmp_path, infinite(tmp_path / "m.onnx"), type(samples)(rows), ("dynamic_smooth_gptq",))
    assert judged.passes.prepared.notes["infinities"].startswith("1 constants hold 8.5e+37")
    for method, exclude, least in (("mse_gptq", "auto", 0.95), ("dynamic_smooth_gptq", "none", 0.99)):
        case = Case("w", "onnxruntime", "uint8", method, "channel", exclude)
        assert judged.measured(case, 0.95).compared.cosine > least


def test_an_input_of_nothing_but_0_and_minus_infinity_is_a_mask() -> None:
    takes = Signature((Tensor("m", (None, 2), "float32"),), ())
    given = fitted({"m": np.array([[0, -np.inf]])}, takes, "here")["m"]
    assert given.tolist() == [[0, float(np.finfo(np.float32).min) / 4]]
    assert given.dtype == np.float32
    for other in ([[-1, -np.inf]], [[0, np.inf]], [[0, np.nan]]):
        assert np.array_equal(fitted({"m": np.array(other)}, takes, "here")["m"], other, equal_nan=True)
