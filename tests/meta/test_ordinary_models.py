"""Ordinary models as people bring them: each gives a verdict, or one line that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_model import model_of

from ptq.cases import Case
from ptq.data.contract import InputContract
from ptq.data.samples import ArraySamples
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import BadData, PtqError, Unsupported
from ptq.metrics.metric import Metric, Predictions, Score, first
from ptq.models.session import session

GENERATOR = np.random.default_rng(0)
node = helper.make_node


def held(name: str, *shape: int) -> Any:
    values = np.random.default_rng(len(name)).normal(size=shape) / np.sqrt(np.prod(shape[1:]))
    return numpy_helper.from_array(values.astype(np.float32), name)


def ints(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)


HEAD = [node("GlobalAveragePool", ["r"], ["g"], name="pool"), node("Flatten", ["g"], ["f"], name="flat")]
HEAD += [node("Gemm", ["f", "gw", "gb"], ["y"], name="gemm")]
WEIGHTS = [held("w", 8, 3, 3, 3), held("b", 8), held("gw", 8, 5), held("gb", 5)]
CONV = node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1] * 4)


def sliced(path: Path) -> Path:
    """The first layer of YOLOv5: four slices joined, which onnxruntime makes a SpaceToDepth."""
    nodes = []
    for index, (row, column) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        nodes.append(node("Slice", ["x", f"at{row}", "end", "rows", "two"], [f"r{index}"], name=f"r{index}"))
        nodes.append(
            node("Slice", [f"r{index}", f"at{column}", "end", "columns", "two"], [f"s{index}"], name=f"s{index}")
        )
    nodes.append(node("Concat", [f"s{index}" for index in range(4)], ["joined"], axis=1, name="join"))
    nodes.append(node("Conv", ["joined", "w12", "b"], ["c"], name="conv", pads=[1] * 4))
    places = [ints("at0", 0), ints("at1", 1), ints("end", 2**31), ints("rows", 2), ints("columns", 3), ints("two", 2)]
    nodes += [node("Relu", ["c"], ["r"], name="relu"), *HEAD]
    return model_of(path, nodes, ["n", 3, 16, 16], ["n", 5], [*WEIGHTS[1:], held("w12", 8, 12, 3, 3), *places])


def branching(path: Path) -> Path:
    branches = {
        name: helper.make_graph(
            [node(kind, ["c"], [name])], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        )
        for name, kind in (("then", "Relu"), ("else", "Neg"))
    }
    nodes = [CONV, node("ReduceMax", ["x"], ["most"], keepdims=0, name="most"), node("Cast", ["most"], ["if"], to=9)]
    nodes += [node("If", ["if"], ["r"], name="if", then_branch=branches["then"], else_branch=branches["else"]), *HEAD]
    return model_of(path, nodes, ["n", 3, 16, 16], ["n", 5], WEIGHTS)


def old(path: Path) -> Path:
    """Operator set 11, whose DequantizeLinear has one scale."""
    model_of(path, [CONV, node("Relu", ["c"], ["r"], name="relu"), *HEAD], ["n", 3, 16, 16], ["n", 5], WEIGHTS)
    model = onnx.load(path)
    model.opset_import[0].version = 11
    onnx.save(model, path)
    return path


def grids(path: Path) -> Path:
    """A detector of a fixed batch that gives its raw grid."""
    nodes = [CONV, node("LeakyRelu", ["c"], ["r"], name="leaky"), node("Conv", ["r", "hw", "hb"], ["y"], name="head")]
    return model_of(
        path, nodes, [1, 3, 16, 16], [1, 21, 16, 16], [*WEIGHTS[:2], held("hw", 21, 8, 1, 1), held("hb", 21)]
    )


def reader(path: Path) -> Path:
    """An OCR recognizer: as many answers as the image is wide."""
    nodes = [CONV, node("Relu", ["c"], ["r"], name="relu"), node("AveragePool", ["r"], ["p"], kernel_shape=[16, 1])]
    nodes += [node("Squeeze", ["p", "two"], ["s"]), node("Transpose", ["s"], ["t"], perm=[0, 2, 1])]
    nodes += [node("MatMul", ["t", "mw"], ["y"], name="letters")]
    return model_of(path, nodes, ["n", 3, 16, "w"], ["n", "w", 20], [*WEIGHTS[:2], held("mw", 8, 20), ints("two", 2)])


def speech(path: Path) -> Path:
    """A stateful speech model: a frame, the state of a GRU with the batch in the middle, and a sample rate, by which an
    If chooses."""
    branches = {
        name: helper.make_graph(
            [node("Mul", ["frame", name], [f"{name}_frame"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_frame", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.float32(factor), name)],
        )
        for name, factor in (("whole", 1), ("half", 0.5))
    }
    nodes = [
        node("Equal", ["sr", "rate"], ["fast"], name="fast"),
        node("If", ["fast"], ["x"], name="if", then_branch=branches["whole"], else_branch=branches["half"]),
        node("MatMul", ["x", "mw"], ["m"], name="encode"),
        node("Add", ["m", "mb"], ["mm"], name="bias"),
        node("Relu", ["mm"], ["r"], name="relu"),
        node("Unsqueeze", ["r", "zero"], ["step"], name="step"),
        node("GRU", ["step", "gw", "gr", "", "", "state"], ["every", "next"], name="gru", hidden_size=16),
        node("Squeeze", ["next", "zero"], ["last"], name="last"),
        node("Gemm", ["last", "hw"], ["logit"], name="head"),
        node("Sigmoid", ["logit"], ["speech"], name="speech"),
    ]
    weights = [held("mw", 64, 32), held("mb", 32), held("gw", 1, 48, 32), held("gr", 1, 48, 16), held("hw", 16, 1)]
    graph = helper.make_graph(
        nodes,
        "speech",
        [
            helper.make_tensor_value_info("frame", TensorProto.FLOAT, ["n", 64]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, "n", 16]),
            helper.make_tensor_value_info("sr", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("speech", TensorProto.FLOAT, ["n", 1]),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1, "n", 16]),
        ],
        [*weights, ints("zero", 0), numpy_helper.from_array(np.array(16000), "rate")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def pipeline(model: Path, samples: Any, metric: Metric | None = None) -> Pipeline:
    workload = Workload("mine", model, samples, samples, metric=metric, methods=("cle_mse_gptq",))
    return Pipeline(workload, Store(model.parent / "store"), Registry())


def images(count: int = 24) -> ArraySamples:
    return ArraySamples(GENERATOR.normal(size=(count, 3, 16, 16)).astype(np.float32))


def sqnr(pipeline: Pipeline, backend: str, dtype: str, method: str, granularity: str = "tensor") -> float:
    found = pipeline.measured(Case("mine", backend, dtype, method, granularity), 0.95).compared
    return float(found.sqnr_db or 0)


@pytest.mark.parametrize("make", [sliced, branching, old, grids])
def test_it_is_judged(make: Any, tmp_path: Path) -> None:
    asked = pipeline(make(tmp_path / "m.onnx"), images())
    assert sqnr(asked, "onnxruntime", "uint8", "minmax", "channel") > 30
    assert sqnr(asked, "onnxruntime", "uint8", "cle_mse_gptq") > 30


@pytest.mark.parametrize("backend", ["torch", "torch_pt2e"])
def test_what_onnxruntime_made_of_slices_is_known_to_torch(backend: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx2torch")
    pytest.importorskip("torchao")
    asked = pipeline(sliced(tmp_path / "m.onnx"), images())
    assert "SpaceToDepth" in {each.op_type for each in onnx.load(asked.passes.prepared.path).graph.node}
    assert sqnr(asked, backend, "u8s8", "minmax") > 25


class Letters(Metric):
    """The share of letters that are the float model's: what a recognizer's own decoding may be."""

    def collect(self, outputs: Any, samples: Any) -> Predictions:
        said = [row for batch in outputs for row in batch["y"].argmax(axis=-1)]
        return {"letters": np.array([np.pad(row, (0, 64 - len(row)), constant_values=-1) for row in said])}

    def score(self, predictions: Predictions, samples: Any) -> Score:
        right = (first(predictions) == first(samples.targets)).mean(axis=1)
        return Score(float(right.mean()), len(right), None, {}, right)


def test_images_of_any_width_are_judged_by_a_metric_that_decodes_them_or_refused_in_one_line(tmp_path: Path) -> None:
    widths = GENERATOR.integers(12, 40, 24)
    samples = ArraySamples([GENERATOR.normal(size=(3, 16, int(width))).astype(np.float32) for width in widths])
    case = Case("mine", "onnxruntime", "uint8", "minmax", "channel")
    asked = pipeline(reader(tmp_path / "m.onnx"), samples, Letters())
    assert asked.measured(case, 0.95).compared.score.value > 0.9
    with pytest.raises(BadData, match="write a collect"):
        pipeline(reader(tmp_path / "m.onnx"), samples).measured(case, 0.95)


STATE = (1, None, 16)
RATE = InputContract((), dtype="int64", constant=16000)


@pytest.mark.parametrize("given", ["zeros", "states"])
def test_a_stateful_model_is_judged(given: str, tmp_path: Path) -> None:
    """Its sample rate is a constant; its state starts from zeros, or is given, the sample first."""
    path, frames = speech(tmp_path / "m.onnx"), GENERATOR.normal(size=(24, 64)).astype(np.float32)
    states = GENERATOR.normal(size=(24, 1, 16)).astype(np.float32)
    samples = ArraySamples({"frame": frames, "state": states} if given == "states" else {"frame": frames})
    state = InputContract(STATE, batch_axis=1, constant=0 if given == "zeros" else None)
    workload = Workload("mine", path, samples, samples, {"sr": RATE, "state": state})
    asked = Pipeline(workload, Store(tmp_path / "store"), Registry())
    assert sqnr(asked, "onnxruntime", "uint8", "minmax", "channel") > 30
    own = asked.predictor(Case("mine", "onnxruntime", "fp32"), 1)(dict(samples.inputs))
    fed = {"frame": frames, "sr": np.array(16000), "state": states.transpose(1, 0, 2)}
    fed["state"] = fed["state"] if given == "states" else fed["state"] * 0
    want = session(path).run(["speech", "next"], fed)
    assert np.array_equal(own["speech"], want[0])
    assert np.array_equal(own["next"], want[1].transpose(1, 0, 2))


def test_what_stands_in_the_way_of_a_stateful_model_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    path, frames = speech(tmp_path / "m.onnx"), GENERATOR.normal(size=(24, 64)).astype(np.float32)
    samples = {"frame": frames, "state": np.zeros((24, 1, 16), np.float32), "sr": np.full(24, 16000)}
    case = Case("mine", "onnxruntime", "uint8", "minmax", "channel")
    with pytest.raises(BadData, match=r"'sr' int64 \(\).*InputContract.*constant=") as said:
        pipeline(path, ArraySamples(samples)).artifact(case)
    assert "\n" not in str(said.value)
    workload = Workload("mine", path, ArraySamples(samples), ArraySamples(samples), {"sr": RATE})
    with pytest.raises(BadData, match=r"unknown input 'sr'"):
        Pipeline(workload, Store(tmp_path / "store"), Registry()).artifact(case)
    del samples["sr"]
    workload = Workload("mine", path, ArraySamples(samples), ArraySamples(samples), {"sr": RATE})
    with pytest.raises(BadData, match=r"'state' float32 \(1, \?, 16\).*InputContract.*batch_axis=1"):
        Pipeline(workload, Store(tmp_path / "store"), Registry()).measured(case, 0.95)
    with pytest.raises(BadData, match=r"batch_axis=3, but should be a dimension of shape"):
        InputContract(STATE, batch_axis=3)


def test_an_export_that_holds_to_one_length_is_unsupported_in_torchs_words(tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    pytest.importorskip("torchao")
    nodes = [node("MatMul", ["x", "mw"], ["h"], name="h"), node("Add", ["h", "mb"], ["hb"], name="bias")]
    nodes += [node("ReduceSum", ["hb", "one"], ["sum"], name="sum", keepdims=0)]
    nodes += [node("Gemm", ["sum", "gw", "gb"], ["y"], name="gemm")]
    weights = [held("mw", 6, 8), held("mb", 8), held("gw", 8, 5), held("gb", 5), ints("one", 1)]
    path = model_of(tmp_path / "m.onnx", nodes, ["n", "length", 6], ["n", 5], weights)
    rows = [GENERATOR.normal(size=(3 + at % 4, 6)).astype(np.float32) for at in range(12)]
    asked = pipeline(path, ArraySamples(rows))
    with pytest.raises(Unsupported, match=r"torch cannot quantize m\.onnx \(.*shape\[1\]") as said:
        asked.artifact(Case("mine", "torch_pt2e", "u8s8", "minmax"))
    assert "\n" not in str(said.value)


def test_what_torch_cannot_take_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx2torch")
    with pytest.raises(PtqError, match="operator If") as said:
        sqnr(pipeline(branching(tmp_path / "m.onnx"), images()), "torch", "u8s8", "minmax")
    assert "\n" not in str(said.value)
