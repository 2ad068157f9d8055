"""Statistics and extremes of a real model: the truth, onnxruntime's own MinMax, and what is not finite."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_model import IMAGES, model_of, small_model

from ptq.backends.onnxruntime.grid import quant_type
from ptq.backends.onnxruntime.quantize import quantize
from ptq.calibration.expose import _CARRY_NAN, expose
from ptq.calibration.extremes import extremes
from ptq.calibration.observe import observe
from ptq.calibration.same_range import same_range
from ptq.calibration.statistics import TensorStatistics, collect
from ptq.calibration.statistics_pass import statistics
from ptq.data.batch import as_batch, only
from ptq.data.samples import ArraySamples, Float32
from ptq.errors import BadData
from ptq.models.graph import Graph
from ptq.models.session import session
from ptq.quantization.dtype import DTYPES
from ptq.quantization.methods.minmax import minmax
from ptq.quantization.plan import Plan


def same(one: TensorStatistics, other: TensorStatistics) -> bool:
    return (one.min, one.max, one.count) == (other.min, other.max, other.count) and np.array_equal(
        one.histogram.counts, other.histogram.counts
    )


def test_statistics_and_extremes_know_what_needs_no_look_of_its_own(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx")
    assert same_range(Graph(onnx.load(model).graph)) == {"c1": "r1", "f": "p"}
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
    assert same_range(Graph(graph)) == {"cut": "clip", "relu": "clip", "moved": "clip"}


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
    with pytest.raises(BadData, match="tensor 'root': NaN on calibration sample 5, but should be finite"):
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
        with pytest.raises(BadData, match=f"tensor 'root': NaN on calibration sample {n - 5}, but should be finite"):
            look(tmp_path / "m.onnx", ArraySamples(images))


class Reader:
    """One image at a time, as onnxruntime's calibrators read."""

    def __init__(self, entry: str, samples: ArraySamples) -> None:
        self._batches = map(only, map(as_batch, samples.batches(1)))
        self._entry = entry

    def get_next(self) -> dict[str, Float32] | None:
        image = next(self._batches, None)
        return None if image is None else {self._entry: image}


def assert_minmax_is_onnxruntimes(model: Path, samples: ArraySamples, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, quantize_static

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
            activation_type=quant_type(kind.activation),
            weight_type=quant_type(kind.weight),
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
    from ptq.calibration.prepare import prepare

    prepare(Path(ptq.models.__file__).with_name("digits_resnet8.onnx"), tmp_path / "p.onnx")
    images = np.random.default_rng(0).integers(0, 256, size=(60, 32, 32, 3)).astype(np.float32)
    assert_minmax_is_onnxruntimes(tmp_path / "p.onnx", ArraySamples(images), tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_minmax_is_onnxruntimes_own_on_yolo11n(tmp_path: Path) -> None:
    model = Path(os.environ.get("PTQ_DATA", "")) / "models" / "yolo11n.onnx"
    if not model.is_file():
        pytest.skip("PTQ_DATA with models/yolo11n.onnx is not set")
    from ptq.calibration.prepare import prepare

    prepare(model, tmp_path / "p.onnx")
    images = np.random.default_rng(0).random((3, 3, 640, 640), dtype=np.float32)
    assert_minmax_is_onnxruntimes(tmp_path / "p.onnx", ArraySamples(images), tmp_path)
