"""The pass over a real model: what is exposed, fixed batches, onnxruntime's own MinMax, and the corrected model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptq.calibration.statistics import TensorStatistics, collect
from ptq.errors import BadData, BadModel
from ptq.methods import method
from ptq.methods.minmax import minmax
from ptq.quantizer import Quantizer
from ptq.samples import ArraySamples, Float32

onnx = pytest.importorskip("onnx", reason="needs onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from ptq.backends.onnxruntime import OnnxRuntime  # noqa: E402
from ptq.backends.onnxruntime.correct import correct, moments, pool_globally  # noqa: E402
from ptq.backends.onnxruntime.extremes import extremes  # noqa: E402
from ptq.backends.onnxruntime.observe import _CARRY_NAN, each_batch, expose, observe  # noqa: E402
from ptq.backends.onnxruntime.quantize import DTYPES, Plan, quantize  # noqa: E402
from ptq.backends.onnxruntime.same_range import same_range  # noqa: E402
from ptq.backends.onnxruntime.session import session  # noqa: E402
from ptq.backends.onnxruntime.statistics import statistics  # noqa: E402

GENERATOR = np.random.default_rng(0)
IMAGES = ArraySamples(np.maximum(GENERATOR.normal(size=(40, 3, 8, 8)) + 0.5, 0).astype(np.float32))


def small_model(path: Path, batch: int | str = "n") -> Path:
    """Conv, Relu, Conv without a bias, AveragePool over the whole map, Reshape, Gemm, MatMul."""
    generator = np.random.default_rng(1)

    def constant(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(
            (generator.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32), name
        )

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="c1", pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="c2", group=2, kernel_shape=[3, 3]),
        helper.make_node("AveragePool", ["c2"], ["p"], kernel_shape=[6, 6]),
        helper.make_node("Reshape", ["p", "shape"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["g"], name="g", transB=1),
        helper.make_node("MatMul", ["g", "w4"], ["y"], name="m"),
    ]
    held = [constant("w1", 8, 3, 3, 3), constant("b1", 8), constant("w2", 8, 4, 3, 3), constant("w3", 6, 8)]
    held += [constant("b3", 6), constant("w4", 6, 4), numpy_helper.from_array(np.array([-1, 8], np.int64), "shape")]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])
    exit_ = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])
    model = helper.make_model(
        helper.make_graph(nodes, "small", [entry], [exit_], held),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def test_every_float_activation_is_seen_and_the_batch_does_not_matter(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx")
    seen = collect(observe(model, IMAGES, 32))
    assert set(seen) == {"x", "c1", "r1", "c2", "p", "f", "g", "y"}
    assert seen["c1"].count == 40 * 8 * 8 * 8
    assert seen["c1"].min < 0
    other = collect(observe(model, IMAGES, 7))
    for name in ("x", "c1", "r1"):
        assert (seen[name].min, seen[name].total) == (other[name].min, other[name].total)
        assert np.array_equal(seen[name].histogram.counts, other[name].histogram.counts)


def same(one: TensorStatistics, other: TensorStatistics) -> bool:
    return (one.min, one.max, one.total) == (other.min, other.max, other.total) and np.array_equal(
        one.histogram.counts, other.histogram.counts
    )


def test_statistics_and_extremes_know_what_needs_no_look_of_its_own(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx")
    assert same_range(onnx.load(model).graph) == {"c1": "r1", "f": "p"}
    seen, bounds = statistics(model, IMAGES), extremes(model, IMAGES)
    assert set(seen) == set(bounds) == {"x", "c1", "r1", "c2", "p", "f", "g", "y"}
    assert same(seen["c1"], seen["r1"])
    assert same(seen["f"], seen["p"])
    for name, each in collect(observe(model, IMAGES)).items():
        source = {"c1": "r1", "f": "p"}.get(name, name)
        if name == source:
            assert same(seen[name], each)
        assert bounds[name].max == pytest.approx(seen[source].max, rel=1e-5)
        assert min(bounds[name].min, 0) == pytest.approx(min(seen[source].min, 0), rel=1e-5)


def test_a_tensor_with_another_reader_or_a_longer_way_to_its_cut(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    nodes = [
        helper.make_node("Neg", ["x"], ["twice"]),
        helper.make_node("Relu", ["twice"], ["a"]),
        helper.make_node("Add", ["twice", "a"], ["cut"]),
        helper.make_node("Relu", ["cut"], ["relu"]),
        helper.make_node("Clip", ["relu", "low", "high"], ["clip"]),
        helper.make_node("Identity", ["clip"], ["moved"]),
        helper.make_node("Identity", ["constant"], ["still"]),
        helper.make_node("Clip", ["x", "bound", "high"], ["other"]),
        helper.make_node("Abs", ["x"], ["bound"]),
        helper.make_node("Sum", ["moved", "still", "other"], ["y"]),
    ]
    held = [numpy_helper.from_array(np.float32(each), name) for name, each in (("low", 0), ("high", 6))]
    held.append(numpy_helper.from_array(np.ones(4, np.float32), "constant"))
    graph = helper.make_graph(nodes, "graph", [value[0]], [value[1]], held)
    assert same_range(graph) == {"cut": "clip", "relu": "clip", "moved": "clip"}


def test_peaks_hold_both_ends_of_every_map(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx")
    images = next(IMAGES.batches(5))
    whole, peaks = expose(model)(images), expose(model, peaks=True)(images)
    assert list(whole) == list(peaks)
    assert {name: each.shape for name, each in peaks.items() if name in ("c1", "r1", "c2", "p")} == {
        "c1": (5, 16), "r1": (5, 8), "c2": (5, 16), "p": (5, 16)
    }  # fmt: skip
    for name, each in whole.items():
        rows, held = each.reshape(5, -1), peaks[name].reshape(5, -1)
        np.testing.assert_allclose(held.max(axis=1), rows.max(axis=1), rtol=1e-5, atol=1e-6)
        if name != "r1":
            np.testing.assert_allclose(held.min(axis=1), rows.min(axis=1), rtol=1e-5, atol=1e-6)


def test_peaks_of_sequences_and_maps_in_one_model(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["map"]),
        helper.make_node("Reshape", ["map", "shape"], ["line"]),
        helper.make_node("Exp", ["line"], ["long"]),
        helper.make_node("ReduceSum", ["long"], ["y"], keepdims=1),
    ]
    held = [numpy_helper.from_array(np.array([0, 4, 36], np.int64), "shape")]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 6, 6])
    exit_ = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1])
    graph = helper.make_graph(nodes, "graph", [entry], [exit_], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    images = np.random.default_rng(0).normal(size=(3, 4, 6, 6)).astype(np.float32)
    seen = expose(tmp_path / "m.onnx", peaks=True)(images)
    assert (seen["map"].max(), seen["map"].min()) == (-images.min(), -images.max())
    assert seen["line"].shape == seen["long"].shape == (3, 12)
    np.testing.assert_allclose([seen["long"].min(), seen["long"].max()], np.exp([-images.max(), -images.min()]), 1e-6)


def model_of(path: Path, nodes: list[Any], shape: list[Any], exit_shape: list[Any], held: Any = ()) -> Path:
    """Input x, output y."""
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    exit_ = helper.make_tensor_value_info("y", TensorProto.FLOAT, exit_shape)
    graph = helper.make_graph(nodes, "graph", [entry], [exit_], list(held))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def truth(model: Path, samples: ArraySamples) -> dict[str, tuple[float, float]]:
    """Every image alone, through the graph as it stands."""
    exposed = expose(model, exact=True)
    every = [exposed(image) for image in samples.batches(1)]
    return {
        name: (min(float(x[name].min()) for x in every), max(float(x[name].max()) for x in every)) for name in every[0]
    }


@pytest.mark.parametrize("kind", ["sequence first", "more rows than images", "silu"])
def test_extremes_are_the_truth_where_images_are_not_rows(kind: str, tmp_path: Path) -> None:
    node, held = helper.make_node, [numpy_helper.from_array(np.array([-1, 3, 4], np.int64), "shape")]
    nodes = {
        "sequence first": [
            node("Transpose", ["x"], ["s"], perm=[1, 0, 2]),
            node("Mul", ["s", "s"], ["t"]),
            node("Transpose", ["t"], ["u"], perm=[1, 0, 2]),
            node("Neg", ["u"], ["y"]),
        ],
        "more rows than images": [
            node("Reshape", ["x", "shape"], ["r"]),
            node("Sin", ["r"], ["t"]),
            node("Neg", ["t"], ["y"]),
        ],
        "silu": [node("Sigmoid", ["x"], ["g"]), node("Mul", ["x", "g"], ["t"]), node("Neg", ["t"], ["y"])],
    }[kind]  # fmt: skip
    model = model_of(tmp_path / "m.onnx", nodes, ["n", 6, 4], [None, None, None], held)
    samples = ArraySamples(np.random.default_rng(0).normal(size=(90, 6, 4)).astype(np.float32) * 3)
    seen, want = extremes(model, samples), truth(model, samples)
    for name in ("x", "t", "y"):
        np.testing.assert_allclose((seen[name].min, seen[name].max), want[name], rtol=1e-6)


@pytest.mark.parametrize("place", [(0, 0), (3, 2), (5, 5)])
def test_a_nan_that_a_pool_passes_over_is_found(place: tuple[int, int], tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("Sqrt", ["c"], ["root"]),
        helper.make_node("MaxPool", ["root"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Neg", ["f"], ["y"]),
    ]
    held = [numpy_helper.from_array(np.full((4, 4, 1, 1), 0.1, np.float32), "w")]
    model = model_of(tmp_path / "m.onnx", nodes, ["n", 4, 6, 6], ["n", 36], held)
    images = np.ones((90, 4, 6, 6), np.float32)
    images[5, :, place[0], place[1]] = -1
    with pytest.raises(BadData, match="tensor 'root': NaN on calibration image 5, but should be finite"):
        extremes(model, ArraySamples(images))


@pytest.mark.parametrize("kind", sorted(_CARRY_NAN))
def test_what_is_said_to_carry_a_nan_does(kind: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    square, four = generator.normal(size=(6, 6)).astype(np.float32), generator.normal(size=4).astype(np.float32)
    more: dict[str, tuple[list[np.ndarray], dict[str, Any]]] = {
        "AveragePool": ([], {"kernel_shape": [2, 2]}),
        "BatchNormalization": ([four, four, four, np.abs(four)], {}),
        "Concat": ([np.zeros((4, 4, 6, 6), np.float32)], {"axis": 1}),
        "Conv": ([generator.normal(size=(4, 4, 1, 1)).astype(np.float32)], {"kernel_shape": [1, 1]}),
        "Gemm": ([square], {}),
        "MatMul": ([square], {}),
        "Reshape": ([np.array([-1, 36], np.int64)], {}),
        **{each: ([np.ones(1, np.float32)], {}) for each in ("Add", "Mul", "Sub")},
    }
    values, attributes = more.get(kind, ([], {}))
    held = [numpy_helper.from_array(each, f"w{index}") for index, each in enumerate(values)]
    node = helper.make_node(kind, ["x", *(each.name for each in held)], ["y"], **attributes)
    shape = [4, 6] if kind == "Gemm" else [4, 4, 6, 6]
    model = model_of(
        tmp_path / "m.onnx", [node], shape, [None] * (2 if kind in ("Gemm", "Reshape", "Flatten") else 4), held
    )
    images = generator.normal(size=shape).astype(np.float32)
    images.reshape(4, -1)[2, 3] = np.nan
    for optimize in (True, False):
        (answer,) = session(model, optimize=optimize).run(None, {"x": images})
        assert np.isnan(answer).any()


def test_large_maps_take_smaller_batches_with_peaks_too(tmp_path: Path) -> None:
    nodes = [helper.make_node("Tanh", ["x" if i == 0 else f"t{i}"], [f"t{i + 1}" if i < 4 else "m"]) for i in range(5)]
    nodes.append(helper.make_node("ReduceMean", ["m"], ["y"], axes=[1, 2, 3], keepdims=0))
    model = model_of(tmp_path / "m.onnx", nodes, ["n", 16, 256, 256], ["n"])
    exposed = expose(model, peaks=True)
    assert exposed.batched
    assert exposed.inside == 5 * 4 * 16 * 256 * 256
    sizes = [
        len(seen["x"]) for seen in each_batch(exposed, ArraySamples(np.zeros((8, 16, 256, 256), np.float32)), dict)
    ]
    assert sizes == [1] * 8


def test_no_samples_is_an_error(tmp_path: Path) -> None:
    class Nothing(ArraySamples):
        def batches(self, size: int) -> Iterator[Float32]:
            return iter(())

    with pytest.raises(BadData, match="0 calibration samples, but should be at least 1"):
        statistics(small_model(tmp_path / "m.onnx"), Nothing(IMAGES.inputs))


@pytest.mark.parametrize("n", [12, 90])  # run exactly at once; found by the fast pass
def test_a_value_inside_the_model_that_is_not_finite_names_its_tensor(n: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("Sqrt", ["c"], ["root"]),
        helper.make_node("Conv", ["root", "w"], ["d"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    held = [numpy_helper.from_array(np.full((4, 4, 1, 1), 0.1, np.float32), "w")]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4, 6, 6]) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", [value[0]], [value[1]], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    images = np.ones((n, 4, 6, 6), np.float32)
    images[n - 5, :, 3, 2] = -1
    for look in (statistics, extremes):
        with pytest.raises(BadData, match=f"tensor 'root': NaN on calibration image {n - 5}, but should be finite"):
            look(tmp_path / "m.onnx", ArraySamples(images))


@pytest.mark.parametrize("fixed", [1, 16])
def test_a_fixed_batch_is_kept_and_filled_up(fixed: int, tmp_path: Path) -> None:
    free = collect(observe(small_model(tmp_path / "m.onnx"), IMAGES))
    held = collect(observe(small_model(tmp_path / "f.onnx", fixed), IMAGES))
    for name, each in free.items():
        assert held[name].count == each.count
        assert held[name].max == pytest.approx(each.max, rel=1e-5)


def test_errors_name_the_model_the_tensor_and_the_image(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(BadModel, match=r"bad\.onnx: cannot be run with its activations exposed"):
        next(observe(tmp_path / "bad.onnx", IMAGES))
    model = small_model(tmp_path / "m.onnx")
    with pytest.raises(BadData, match=r"m\.onnx: input of shape \(1, 3, 9, 9\) does not run"):
        next(observe(model, ArraySamples(np.ones((1, 3, 9, 9), np.float32))))
    images = np.ones((9, 3, 8, 8), np.float32)
    images[6] = np.inf
    for look in (statistics, extremes):
        with pytest.raises(BadData, match="tensor 'x': infinite on calibration image 6, but should be finite"):
            look(model, ArraySamples(images))
    with pytest.raises(BadData, match="tensor 'x': infinite on calibration image 86, but should be finite"):
        extremes(model, ArraySamples(np.concatenate([images[:1]] * 80 + [images])))


class Reader:
    """One image at a time, as onnxruntime's calibrators read."""

    def __init__(self, entry: str, samples: ArraySamples) -> None:
        self._batches: Iterator[Float32] = samples.batches(1)
        self._entry = entry

    def get_next(self) -> dict[str, Float32] | None:
        image = next(self._batches, None)
        return None if image is None else {self._entry: image}


def assert_minmax_is_onnxruntimes(model: Path, samples: ArraySamples, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    for dtype in ("u8s8", "int8"):
        kind = DTYPES[dtype]
        ranges = {name: minmax(each, kind.quantizer) for name, each in extremes(model, samples).items()}
        quantize(model, Plan(kind, ranges, True), tmp_path / "ours.onnx")
        entry = onnx.load(model).graph.input[0].name
        quantize_static(
            str(model),
            str(tmp_path / "theirs.onnx"),
            Reader(entry, samples),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType[kind.activation],
            weight_type=QuantType[kind.weight],
            per_channel=True,
        )
        ours, theirs = (
            {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / name).graph.initializer}
            for name in ("ours.onnx", "theirs.onnx")
        )
        assert ours.keys() == theirs.keys()
        compared = 0
        for name, value in theirs.items():
            if name.endswith("_scale"):
                np.testing.assert_array_max_ulp(ours[name], value, maxulp=1)
                compared += 1
            elif name.endswith("_zero_point"):
                assert np.array_equal(ours[name], value), name
        assert compared > 5


@pytest.mark.filterwarnings("ignore")  # onnxruntime's own code
def test_minmax_is_onnxruntimes_own(tmp_path: Path) -> None:
    assert len(IMAGES) > 2 * 7  # enough for the fast pass and then a few images exactly
    assert_minmax_is_onnxruntimes(small_model(tmp_path / "m.onnx"), IMAGES, tmp_path)
    assert_minmax_is_onnxruntimes(small_model(tmp_path / "f.onnx", batch=1), IMAGES, tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_minmax_is_onnxruntimes_own_on_resnet8(tmp_path: Path) -> None:
    import ptq.models
    from ptq.backends.onnxruntime.prepare import prepare

    prepare(Path(ptq.models.__file__).with_name("digits_resnet8.onnx"), tmp_path / "p.onnx")
    images = np.random.default_rng(0).integers(0, 256, size=(60, 32, 32, 3)).astype(np.float32)
    assert_minmax_is_onnxruntimes(tmp_path / "p.onnx", ArraySamples(images), tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_minmax_is_onnxruntimes_own_on_yolo11n(tmp_path: Path) -> None:
    model = Path(os.environ.get("PTQ_DATA", "")) / "models" / "yolo11n.onnx"
    if not model.is_file():
        pytest.skip("PTQ_DATA with models/yolo11n.onnx is not set")
    from ptq.backends.onnxruntime.prepare import prepare

    prepare(model, tmp_path / "p.onnx")
    images = np.random.default_rng(0).random((3, 3, 640, 640), dtype=np.float32)
    assert_minmax_is_onnxruntimes(tmp_path / "p.onnx", ArraySamples(images), tmp_path)


def test_pooling_over_the_whole_map_becomes_global_and_another_does_not(tmp_path: Path) -> None:
    model = onnx.load(small_model(tmp_path / "m.onnx"))
    assert pool_globally(model) == 1
    assert [node.op_type for node in model.graph.node][3] == "GlobalAveragePool"
    onnx.save(model, tmp_path / "g.onnx")
    batch = next(IMAGES.batches(8))
    before, after = (session(tmp_path / name).run(None, {"x": batch})[0] for name in ("m.onnx", "g.onnx"))
    assert np.allclose(before, after, atol=1e-5)
    partial = onnx.load(small_model(tmp_path / "m.onnx"))
    partial.graph.node[3].attribute[0].ints[:] = [3, 6]
    del partial.graph.value_info[:]
    assert pool_globally(partial) == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["u8s8", "uint8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_corrected_model_is_nearer_to_the_float_model(dtype: str, per_channel: bool, tmp_path: Path) -> None:
    model, kind = small_model(tmp_path / "m.onnx"), DTYPES[dtype]
    ranges = {name: method("mse")(each, kind.quantizer) for name, each in collect(observe(model, IMAGES)).items()}
    overrides = correct(model, tmp_path / "c.onnx", moments(model, IMAGES), kind.weight_quantizer, per_channel)
    assert set(overrides) == {"w1", "w2", "w3", "w4"}
    plan = Plan(kind, ranges, per_channel)
    quantize(tmp_path / "c.onnx", replace(plan, overrides=overrides), tmp_path / "corrected.onnx")
    quantize(model, plan, tmp_path / "plain.onnx")
    fresh = np.maximum(np.random.default_rng(9).normal(size=(200, 3, 8, 8)) + 0.5, 0).astype(np.float32)
    want = session(model).run(None, {"x": fresh})[0]
    plain, corrected = (
        np.square(session(tmp_path / name).run(None, {"x": fresh})[0] - want).mean()
        for name in ("plain.onnx", "corrected.onnx")
    )
    assert corrected < plain
    # what quantize_static rounds is already on the grid, so it keeps every weight
    held = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "corrected.onnx").graph.initializer}
    source = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "c.onnx").graph.initializer}
    scale, zero = (held[f"w1_{each}"].reshape(-1, 1, 1, 1) for each in ("scale", "zero_point"))
    real = (held["w1_quantized"].astype(np.float32) - zero) * scale
    assert np.allclose(real, source["w1"], atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_corrected_int8_model_is_the_u8s8_one_moved_by_128(per_channel: bool, tmp_path: Path) -> None:
    """Why the grid has one of them: as written, level for level, they are the same model."""
    model, answers = small_model(tmp_path / "m.onnx"), []
    for dtype in ("u8s8", "int8"):
        kind = DTYPES[dtype]
        ranges = {name: method("mse")(each, kind.quantizer) for name, each in statistics(model, IMAGES).items()}
        overrides = correct(model, tmp_path / "c.onnx", moments(model, IMAGES), kind.weight_quantizer, per_channel)
        quantize(tmp_path / "c.onnx", Plan(kind, ranges, per_channel, overrides=overrides), tmp_path / f"{dtype}.onnx")
        answers.append(
            session(tmp_path / f"{dtype}.onnx", optimize=False).run(None, {"x": next(IMAGES.batches(40))})[0]
        )
    assert np.array_equal(*answers)
    one, other = (
        {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / f"{dtype}.onnx").graph.initializer}
        for dtype in ("u8s8", "int8")
    )
    for name, value in one.items():
        moved = 128 if value.dtype == np.uint8 else 0
        assert np.array_equal(value.astype(np.float64) - moved, other[name].astype(np.float64)), name
    cases = {(case.dtype, case.method) for case in OnnxRuntime().cases("any")}
    assert ("u8s8", "mse_gptq") in cases
    assert ("int8", "mse_gptq") not in cases
    assert ("int8", "mse") in cases


def test_correction_leaves_excluded_nodes_alone_and_gives_the_same_bytes(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx")
    quantizer = Quantizer(8, True, True)
    for name in ("one.onnx", "two.onnx"):
        overrides = correct(model, tmp_path / name, moments(model, IMAGES), quantizer, True, exclude=["c1", "m"])
    assert set(overrides) == {"w2", "w3"}
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
