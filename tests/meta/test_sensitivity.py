"""Errors of layers from one pass, and what `exclude=auto` finds by them: on digits, on planted faults, on detectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from other_detectors import LAYOUTS, write_other
from small_detectors import CLASSES, pictures, write_detector
from small_model import IMAGES, fit, model_of, small_model

import ptq
from ptq.backends.onnxruntime.quantize import quantize
from ptq.calibration.prepare import prepare
from ptq.calibration.statistics_pass import statistics
from ptq.data.digits import read
from ptq.data.samples import ArraySamples
from ptq.data.sampling import calibration_samples
from ptq.engine.store import Store
from ptq.models.graph import Graph
from ptq.models.onnx_file import load
from ptq.models.session import session
from ptq.quantization.dtype import DTYPES
from ptq.quantization.plan import Plan
from ptq.sensitivity.answers import Answers, answer_tensors
from ptq.sensitivity.keep import keep_in_float, standing_out
from ptq.sensitivity.measure import spread
from ptq.sensitivity.rank import BEST_DB, errors, rank


def quantized(model: Path, samples: ArraySamples, folder: Path, exclude: str = "", **fields: str) -> ptq.Quantized:
    said = {"dtype": "u8s8", "method": "minmax", "granularity": "channel", **fields}
    return ptq.quantize(model, samples, exclude=exclude or (), store=Store(folder / "store"), **said)  # type: ignore[arg-type]


def spoilt(artifact: Path) -> onnx.ModelProto:
    """A QDQ file of the small model with all but the three highest bits of c2's weights lost."""
    model = load(artifact)
    held = Graph(model.graph).initializers
    name = next(each for each in held if each.startswith("w2") and each.endswith("_quantized"))
    held[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held[name]) // 32 * 32, name))
    return model


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """A small model, prepared, and its QDQ file."""
    prepare(small_model(tmp_path / "small.onnx"), tmp_path / "prepared.onnx")
    return tmp_path / "prepared.onnx", quantized(tmp_path / "small.onnx", IMAGES, tmp_path).path


def test_errors_are_those_of_layers_run_one_by_one(small: tuple[Path, Path]) -> None:
    """Against numpy on tensors that two sessions of their own give: the tensor alone, and in the quantized model."""
    model, artifact = small
    found = {each.node: each for each in errors(model, artifact, fit(model, IMAGES), 40).layers}
    tensors = {"x": IMAGES.inputs}
    for path, wanted in ((model, ["r1"]), (artifact, ["r1_DequantizeLinear_Output"])):
        proto = load(path)
        proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in wanted)
        running = session(proto.SerializeToString(), optimize=False)
        tensors |= dict(zip(wanted, running.run(wanted, {"x": IMAGES.inputs}), strict=True))
    want, have = tensors["r1"].astype(np.float64), tensors["r1_DequantizeLinear_Output"].astype(np.float64)
    noise = np.square(have - want).sum()
    signal = np.square(want - want.mean(axis=(0, 2, 3), keepdims=True)).sum()
    assert found["c1"].propagated == pytest.approx(10 * np.log10(signal / noise), abs=0.01)
    # the first layer's inputs are those of the float model in the quantized one, too
    assert found["c1"].local == pytest.approx(found["c1"].propagated, abs=0.01)
    assert found["c1"].tensor == "r1"
    assert found["c2"].local > found["c2"].propagated  # type: ignore[operator]
    assert set(found) >= {"c1", "c2", "m"}
    low, high = found["c2"].local_interval
    assert low < found["c2"].local < high


def test_a_spoilt_layer_is_ranked_first_and_the_others_are_as_they_were(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    model, artifact = small
    samples = fit(model, IMAGES)
    before = {each.node: each for each in rank(model, artifact, samples)}
    onnx.save(spoilt(artifact), tmp_path / "spoilt.onnx")
    after = rank(model, tmp_path / "spoilt.onnx", samples)
    assert after[0].node == "c2"
    assert after[0].local < before["c2"].local - 10
    assert after[0].weights == pytest.approx(after[0].computed, abs=0.5)
    assert {each.node: each.local for each in after if each.node != "c2"} == {
        node: each.local for node, each in before.items() if node != "c2"
    }


def test_errors_repeat_to_the_bit(small: tuple[Path, Path]) -> None:
    model, artifact = small
    assert rank(model, artifact, fit(model, IMAGES)) == rank(model, artifact, fit(model, IMAGES))


def test_even_shows_what_a_wide_channel_hides(tmp_path: Path) -> None:
    prepare(write_detector(tmp_path / "decoded.onnx", "decoded"), tmp_path / "prepared.onnx")
    made = quantized(tmp_path / "decoded.onnx", pictures(), tmp_path)
    found = {each.node: each for each in errors(tmp_path / "prepared.onnx", made.path, pictures(), 8).layers}
    join = found["n_row0"]
    assert join.local > 30
    assert join.even < 10


def test_what_is_no_qdq_file_of_the_model_is_said_in_one_line(small: tuple[Path, Path], tmp_path: Path) -> None:
    model, artifact = small
    with pytest.raises(ptq.BadModel, match=r"prepared.onnx: has no QuantizeLinear, but should be a QDQ file"):
        rank(model, model, IMAGES)
    other = write_detector(tmp_path / "other.onnx", "raw")
    with pytest.raises(ptq.BadModel, match="does not fit the float model it is compared with"):
        rank(other, artifact, pictures())
    nameless = model_of(
        tmp_path / "nameless.onnx", [onnx.helper.make_node("Relu", ["x"], ["y"])], ["n", 3], ["n", 3]
    )  # fmt: skip
    renamed = load(nameless)
    renamed.graph.output[0].name = renamed.graph.node[0].output[0] = "other"
    onnx.save(renamed, nameless)
    with pytest.raises(ptq.BadModel, match=r"none of its nodes or tensors has a name of .*nameless.onnx"):
        rank(nameless, artifact, IMAGES)
    with pytest.raises(ptq.BadData, match="does not run with x float32"):
        rank(model, artifact, ArraySamples(np.zeros((2, 3, 4), np.float32)))


def test_samples_are_spread_over_all_of_them() -> None:
    samples = ArraySamples(np.arange(100, dtype=np.float32)[:, None])
    assert [float(each["inputs" if "inputs" in each else next(iter(each))][0, 0]) for each in spread(samples, 4)] == [
        0,
        25,
        50,
        75,
    ]
    assert len(spread(samples, 1000)) == 100
    assert len(spread(ArraySamples(np.zeros((7, 1), np.float32)), 9, fixed=2)) == 3


def test_kinds_of_answers_are_told_by_their_scale(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "decoded.onnx", "decoded")
    answers = Answers(path, spread(pictures(), 4))
    assert [str(kind) for kind in answers.kinds] == ["y[0..3]", f"y[4..{3 + CLASSES}]"]
    assert (answers.noise(path) == 0).all()
    assert [str(kind) for kind in Answers(write_detector(path, "apart"), spread(pictures(), 4)).kinds] == [
        "boxes[0..3]",
        f"scores[0..{CLASSES - 1}]",
    ]


def test_answers_are_compared_before_a_choice() -> None:
    helper = onnx.helper
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["scores"]),
        helper.make_node("TopK", ["scores", "k"], ["values", "indices"]),
        helper.make_node("Neg", ["values"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "choice", [value("x", 1, [1, 9])], [value("y", 1, [1, 3]), value("indices", 7, [1, 3])],
        [numpy_helper.from_array(np.array([3], np.int64), "k")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert answer_tensors(model) == ["scores"]


@pytest.mark.parametrize("kind", ["raw", "scores", "decoded", "apart", *LAYOUTS])
@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_auto_keeps_the_head_of_a_detector_in_float_and_the_body_in_integer(
    kind: str, method: str, tmp_path: Path
) -> None:
    path = (write_other if kind in LAYOUTS else write_detector)(tmp_path / f"{kind}.onnx", kind)
    prepare(path, tmp_path / "prepared.onnx")
    whole, auto = (quantized(path, pictures(), tmp_path, exclude, method=method) for exclude in ("", "auto"))
    answers = Answers(tmp_path / "prepared.onnx", spread(pictures(), 16))
    before, after = (answers.noise(each.path)[:, 0].max() for each in (whole, auto))
    assert before > 0.01  # the fault is there
    assert after < 0.01
    assert "dB less noise in" in auto.notes["auto"] or "joins ranges" in auto.notes["in float"]
    nodes = {node.name: node for node in load(auto.path).graph.node}
    bodies = [nodes[f"n_{name}{level}"] for name in "cd" for level in range(4)]
    assert all(each.input[0].endswith("_DequantizeLinear_Output") for each in bodies)


@pytest.mark.parametrize("fields", [{}, {"granularity": "tensor"}, {"dtype": "int8", "method": "entropy"}])
def test_auto_leaves_a_healthy_model_in_integer_and_says_so(fields: dict[str, str], tmp_path: Path) -> None:
    from ptq.workloads.digits import MODEL

    samples = calibration_samples(read("train"), per_class=10, seed=42)
    made = quantized(MODEL, samples, tmp_path, "auto", **fields)
    assert made.notes["auto"].startswith("found nothing: no part dominates the noise of digit[0..9]")
    assert "in float" not in made.notes
    whole = quantized(MODEL, samples, tmp_path, "", **fields)
    assert made.path.read_bytes() == whole.path.read_bytes()


def test_a_layer_alone_is_kept_in_float_where_it_spoils_the_answers(tmp_path: Path) -> None:
    model = small_model(tmp_path / "small.onnx")
    prepare(model, tmp_path / "prepared.onnx")
    samples = fit(model, IMAGES)
    ranges = {name: (each.min, each.max) for name, each in statistics(tmp_path / "prepared.onnx", samples).items()}

    def make(nodes: Sequence[str], out: Path) -> None:
        quantize(tmp_path / "prepared.onnx", Plan(DTYPES["u8s8"], ranges, True, nodes), out)
        if "c2" not in nodes:
            onnx.save(spoilt(out), out)

    added, said = keep_in_float(tmp_path / "prepared.onnx", make, samples)
    assert [each.node for each in added] == ["c2"]
    assert re.fullmatch(r"1 nodes, c2 alone: [0-9.]+ dB less noise in y\[0\.\.3\]", said)
    make([], tmp_path / "whole.onnx")
    assert [each.node for each in standing_out(rank(tmp_path / "prepared.onnx", tmp_path / "whole.onnx", samples))] == [
        "c2"
    ]


def test_a_node_in_float_loses_nothing(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "raw.onnx", "raw")
    prepare(path, tmp_path / "prepared.onnx")
    auto = quantized(path, pictures(), tmp_path, "auto")
    found = {each.node: each for each in errors(tmp_path / "prepared.onnx", auto.path, pictures(), 4).layers}
    assert not found["n_row0"].integer
    assert found["n_row0"].local == BEST_DB
    assert found["n_c1"].integer
