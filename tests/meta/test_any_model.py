"""Models that are no image classifiers: several inputs, integers, varying length, masks, methods from outside."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_encoder import WIDTH, padded, sentences, write_encoder
from small_model import IMAGES, fit, model_of, small_model

from ptq.backends.onnxruntime import BACKENDS
from ptq.backends.protocol import COUNTED, FloatModel
from ptq.calibration import observe as observing
from ptq.calibration.expose import expose
from ptq.calibration.extremes import extremes
from ptq.calibration.moments_pass import moments
from ptq.calibration.observe import each_batch
from ptq.calibration.prepare import prepare
from ptq.calibration.statistics_pass import statistics
from ptq.cases import Case
from ptq.data.batch import only
from ptq.data.samples import ArraySamples
from ptq.engine.registry import Registry
from ptq.errors import BadData, BadModel, PtqError
from ptq.quantization.calibration import Calibration
from ptq.quantization.correct import correct
from ptq.quantization.dtype import DTYPES
from ptq.quantization.method import EXTREMES, MOMENTS, Method
from ptq.quantization.methods.minmax import minmax

(BACKEND,) = BACKENDS
METHODS = Registry().methods


@dataclass
class Made:
    """A model, prepared, with its samples; `asked` says which passes ran."""

    model: FloatModel
    calibration: Calibration
    asked: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path, given: ArraySamples, **methods: Method) -> Made:
        made = FloatModel(path, path.with_name("prepared.onnx"))
        prepare(path, made.prepared)
        samples, asked = fit(path, given), list[str]()

        def ask(name: str, look: Any) -> Any:
            asked.append(name)
            return look(made.prepared, samples)

        calibration = Calibration(
            samples,
            lambda: ask("statistics", statistics),
            {**METHODS, **methods},
            lambda: ask("moments", moments),
            lambda: ask("extremes", extremes),
        )
        return cls(made, calibration, asked)

    def error(self, given: ArraySamples, out: Path, method: str, exclude: str = "none", dtype: str = "u8s8") -> float:
        """Mean squared error of the quantized output over that of saying nothing."""
        case = Case("w", "onnxruntime", dtype, method, "channel", exclude)
        BACKEND.quantize(case, self.model, self.calibration, out)
        batches = list(fit(self.model.onnx, given).batches(8))
        want, have = (
            np.concatenate([only(BACKEND.load(path)(batch)) for batch in batches]) for path in (self.model.onnx, out)
        )
        assert np.isfinite(have).all()
        return float(np.square(have - want).mean() / np.square(want).mean())


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder.onnx")


def test_sentences_of_every_length_are_seen_and_integers_are_not(encoder: Path) -> None:
    given = sentences(40)
    words = sum(map(len, given.inputs["ids"]))  # type: ignore[call-overload]
    seen = statistics(encoder, fit(encoder, given))
    assert not {"ids", "mask"} & set(seen)
    assert seen["x"].count == words * WIDTH
    bounds = extremes(encoder, fit(encoder, given))
    assert set(bounds) == set(seen)
    for name, each in seen.items():
        assert bounds[name].max == pytest.approx(each.max, rel=1e-5)


def test_a_float_input_beside_an_integer_one_is_seen(tmp_path: Path) -> None:
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "length"])
    gain = helper.make_tensor_value_info("gain", TensorProto.FLOAT, ["n", 1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "length"])
    nodes = [helper.make_node("Cast", ["ids"], ["real"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("Mul", ["real", "gain"], ["y"]))
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [ids, gain], [out]), ir_version=9), tmp_path / "m.onnx")
    given = ArraySamples({"gain": np.array([[2.0], [-3.0]], np.float32), "ids": np.array([[1, 2], [3, 4]])})
    seen = statistics(tmp_path / "m.onnx", fit(tmp_path / "m.onnx", given))
    assert {name: (each.min, each.max) for name, each in seen.items()} == {
        "gain": (-3.0, 2.0), "real": (1.0, 4.0), "y": (-12.0, 4.0),
    }  # fmt: skip


def test_a_value_that_is_not_finite_names_the_sample_by_its_own_index(tmp_path: Path) -> None:
    nodes = [helper.make_node("Sqrt", ["x"], ["root"]), helper.make_node("Neg", ["root"], ["y"])]
    model = model_of(tmp_path / "m.onnx", nodes, ["n", "length"], ["n", "length"])
    given = [np.ones(size, np.float32) for size in (5, 3, 5, 2, 3)]
    given[2][1] = -1
    for look in (statistics, extremes):
        with pytest.raises(BadData, match="tensor 'root': NaN on calibration sample 2, but should be finite"):
            look(model, fit(model, ArraySamples(given)))


def test_longer_samples_come_in_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tmp_path / "m.onnx", [helper.make_node("Neg", ["x"], ["y"])], ["n", "length"], ["n", "length"])
    given = ArraySamples([np.ones(size, np.float32) for size in (10, 10, 10, 10, 40, 40, 40, 40)])
    monkeypatch.setattr(observing, "_BUDGET", 4 * 80 * 6)  # four short ones in each of six batches
    shapes = [seen["x"].shape for seen in each_batch(expose(model), fit(model, given), dict, 8)]
    assert shapes == [(4, 10), *[(1, 40)] * 4]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["minmax", "percentile", "mse_gptq"])
def test_an_encoder_of_varying_length_is_quantized_and_runs(method: str, encoder: Path, tmp_path: Path) -> None:
    made = Made.of(encoder, sentences(60))
    out = tmp_path / "q.onnx"
    assert 0 < made.error(sentences(30, seed=1), out, method) < 0.05
    have = BACKEND.signature(out)
    assert [(each.name, each.dtype) for each in have.inputs] == [("ids", "int64"), ("mask", "int64")]
    found = BACKEND.census(out)
    assert found.integer["MatMul"] == 6
    assert {*found.integer, *found.floating} <= COUNTED
    with pytest.raises(BadData, match=r"q\.onnx: no input 'mask' among 'ids', 'masque'"):
        BACKEND.load(out)({"ids": np.ones((1, 3), np.int64), "masque": np.ones((1, 3), np.int64)})


@pytest.mark.filterwarnings("ignore")
def test_a_mask_of_the_lowest_float_is_finite_and_auto_keeps_what_it_would_drown(encoder: Path, tmp_path: Path) -> None:
    given = padded(sentences(60))
    made, out = Made.of(encoder, given), tmp_path / "q.onnx"
    for method in ("minmax", "percentile", "mse", "entropy", "mse_gptq"):
        assert made.error(given, out, method) > 0
    whole, planned = (made.error(given, out, "mse_gptq", exclude) for exclude in ("none", "auto"))
    assert planned < whole / 4
    assert "Add" in BACKEND.census(out).floating


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
@pytest.mark.parametrize("opset", [11, 17])
def test_an_autoencoder_is_corrected_as_a_convolution_is(kind: str, opset: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sizes = (640, 32, 8, 32, 640)
    nodes, held, tensor = [], [], "x"
    for index, (taken, given) in enumerate(itertools.pairwise(sizes)):
        weight = (generator.normal(size=(taken, given)) / np.sqrt(taken)).astype(np.float32)
        held.append(numpy_helper.from_array(weight, f"w{index}"))
        last = index == len(sizes) - 2
        made = "y" if last else f"t{index}"
        nodes.append(helper.make_node(kind, [tensor, f"w{index}"], [made]))
        tensor = made if last else f"r{index}"
        if not last:
            nodes.append(helper.make_node("Relu", [made], [tensor]))
    path = model_of(tmp_path / "m.onnx", nodes, ["n", 640], ["n", 640], held)
    proto = onnx.load(path)
    proto.opset_import[0].version = opset
    onnx.save(proto, path)
    frames = (generator.normal(size=(300, 6)) @ generator.normal(size=(6, 640))).astype(np.float32)
    model = Made.of(path, ArraySamples(frames[:200]))
    assert onnx.load(model.model.prepared).opset_import[0].version == max(opset, 13)
    plain, corrected = (
        model.error(ArraySamples(frames[200:]), tmp_path / "q.onnx", method) for method in ("mse", "mse_gptq")
    )
    assert corrected < plain < 0.01
    assert dict(BACKEND.census(tmp_path / "q.onnx").floating) == {}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_is_made_and_runs(dtype: str, tmp_path: Path) -> None:
    made = Made.of(small_model(tmp_path / "m.onnx"), IMAGES)
    case = Case("w", "onnxruntime", dtype, "minmax")
    assert BACKEND.unsupported(case) is None
    assert 0 < made.error(IMAGES, tmp_path / "q.onnx", "mse_gptq", dtype=dtype) < (0.2 if "4" in dtype else 0.01)
    assert DTYPES[dtype].weight.numpy in {
        onnx.helper.tensor_dtype_to_np_dtype(each.data_type).name
        for each in onnx.load(tmp_path / "q.onnx").graph.initializer
    }


def test_a_dtype_that_is_none_is_unsupported() -> None:
    reason = BACKEND.unsupported(Case("w", "onnxruntime", "float8", "minmax"))
    assert reason is not None
    assert reason.startswith("dtype 'float8' is not known: it should be one of fp32, int8")


@pytest.mark.filterwarnings("ignore")
def test_a_method_from_outside_is_given_what_it_needs_and_no_more(tmp_path: Path) -> None:
    half = Method("half", lambda seen, _: (min(0.0, seen.min) / 2, max(0.0, seen.max) / 2), {EXTREMES})  # type: ignore[arg-type]
    mended = Method("mended", minmax, frozenset({EXTREMES, MOMENTS}), corrects=correct)
    made = Made.of(small_model(tmp_path / "m.onnx"), IMAGES, half=half, mended=mended)
    listed = {case.id for case in BACKEND.cases("w", made.calibration.methods)}
    assert {"w-onnxruntime-u8s8-half-channel", "w-onnxruntime-int8-half", "w-onnxruntime-u8s8-mended"} <= listed
    assert "w-onnxruntime-int8-mended" not in listed  # level for level the u8s8 one
    whole = made.error(IMAGES, tmp_path / "q.onnx", "minmax")
    assert made.asked == ["extremes"]
    assert made.error(IMAGES, tmp_path / "q.onnx", "half") > whole
    assert set(made.asked) == {"extremes"}
    assert made.error(IMAGES, tmp_path / "q.onnx", "mended") < whole
    assert set(made.asked) == {"extremes", "moments"}
    with pytest.raises(PtqError, match=r"method 'kl' is not known: it should be one of .*entropy, minmax, mixed, mse"):
        made.error(IMAGES, tmp_path / "q.onnx", "kl")


def test_a_model_of_one_input_takes_its_batch_under_any_name(tmp_path: Path) -> None:
    predict = BACKEND.load(small_model(tmp_path / "m.onnx"))
    batch = next(IMAGES.batches(4))
    assert list(predict(batch)) == ["y"]
    assert (only(predict(batch)) == only(predict({"x": only(batch)}))).all()
    with pytest.raises(BadModel, match=r"m\.onnx: does not run with x float64 \(4, 3, 8, 8\) \("):
        predict({"x": only(batch).astype(np.float64)})


@pytest.mark.filterwarnings("ignore")
def test_a_model_with_nothing_to_quantize_is_refused_by_its_own_name(tmp_path: Path) -> None:
    given = ArraySamples(np.ones((4, 3), np.float32))
    nodes = [helper.make_node("Exp", ["x"], ["e"], "e"), helper.make_node("Neg", ["e"], ["y"], "n")]
    made = Made.of(model_of(tmp_path / "m.onnx", nodes, ["n", 3], ["n", 3]), given)
    with pytest.raises(BadModel, match=r"/m\.onnx: nothing of it was quantized, .*; it has Exp, Neg$"):
        made.error(given, tmp_path / "q.onnx", "minmax")
    assert not (tmp_path / "q.onnx").exists()
    integers = model_of(tmp_path / "i.onnx", [helper.make_node("Not", ["x"], ["y"])], ["n", 3], ["n", 3])
    proto = onnx.load(integers)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BOOL
    onnx.save(proto, integers)
    with pytest.raises(BadModel, match=r"i\.onnx: has no float32 activation, so there is nothing to calibrate"):
        statistics(integers, fit(integers, ArraySamples(np.ones((2, 3), np.bool_))))


@pytest.mark.filterwarnings("ignore")
def test_inputs_too_large_to_be_squared_leave_a_layer_as_it_is(tmp_path: Path) -> None:
    held = [numpy_helper.from_array(np.eye(4, dtype=np.float32), name) for name in ("w", "v")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t"], "t"), helper.make_node("MatMul", ["small", "v"], ["u"], "u")]
    nodes.insert(0, helper.make_node("Tanh", ["x"], ["small"], "small"))
    nodes.append(helper.make_node("Add", ["t", "u"], ["y"], "y"))
    path = model_of(tmp_path / "m.onnx", nodes, ["n", 4], ["n", 4], held)
    huge = ArraySamples((np.random.default_rng(0).normal(size=(20, 4)) * 1e30).astype(np.float32))
    assert set(moments(path, fit(path, huge))) == {"u"}
    made = Made.of(path, huge)
    made.error(huge, tmp_path / "q.onnx", "mse_gptq")


def test_what_cannot_be_prepared_is_noted_and_what_cannot_run_is_refused(tmp_path: Path, encoder: Path) -> None:
    assert prepare(small_model(tmp_path / "m.onnx"), tmp_path / "p.onnx") == {}
    monkey = pytest.MonkeyPatch()
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    def incomplete(*_: object) -> None:
        raise AssertionError

    monkey.setattr(SymbolicShapeInference, "infer_shapes", incomplete)
    notes = prepare(encoder, tmp_path / "p.onnx")
    monkey.undo()
    assert notes == {"symbolic shapes": "left out (AssertionError: AssertionError)"}
    seen = statistics(tmp_path / "p.onnx", fit(encoder, sentences(8)))
    assert {"x", "scores", "masked", "out"} <= set(seen)
    unknown = model_of(tmp_path / "u.onnx", [helper.make_node("Nothing", ["x"], ["y"])], ["n", 3], ["n", 3])
    with pytest.raises(BadModel, match=r"/u\.onnx: onnxruntime cannot run it \("):
        prepare(unknown, tmp_path / "p.onnx")


@pytest.mark.filterwarnings("ignore")
def test_an_older_operator_set_is_converted_so_that_scales_a_channel_load(tmp_path: Path) -> None:
    proto = onnx.load(small_model(tmp_path / "m.onnx"))
    proto.opset_import[0].version = 11
    onnx.save(proto, tmp_path / "old.onnx")
    assert prepare(tmp_path / "old.onnx", tmp_path / "p.onnx") == {"opset": "11 converted to 13"}
    made = Made.of(tmp_path / "old.onnx", IMAGES)
    assert made.error(IMAGES, tmp_path / "q.onnx", "minmax") < 0.01


def test_nodes_without_a_name_get_one(tmp_path: Path) -> None:
    prepare(small_model(tmp_path / "m.onnx"), tmp_path / "p.onnx")
    names = [node.name for node in onnx.load(tmp_path / "p.onnx").graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
