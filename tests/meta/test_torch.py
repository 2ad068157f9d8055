"""The PyTorch FX backend: the silent traps, the ranges handed over, the file that holds no code."""

from __future__ import annotations

import importlib.util
import pickle
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_cnn
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.backends.int8_proof import require_int8
from ptq.backends.protocol import FloatModel
from ptq.backends.torch import census as torch_census
from ptq.backends.torch import observers as torch_observers
from ptq.backends.torch import runtime as torch_runtime
from ptq.backends.torch.file import TorchFile
from ptq.backends.torch.from_onnx import graph_module
from ptq.backends.torch.fx import BACKEND
from ptq.cases import Case
from ptq.errors import BadModel, Unsupported
from ptq.quantization.calibration import Calibration

torch = pytest.importorskip("torch", reason="not installed: pip install 'ptq[torch]'")
onnx = pytest.importorskip("onnx")
if importlib.util.find_spec("onnx2torch") is None:
    pytest.skip("onnx2torch not installed: pip install 'ptq[torch]'", allow_module_level=True)

U8S8 = Case("tiny", "torch", "u8s8", "minmax")
EXAMPLE = (torch.zeros(2, 12, 12, 3),)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FloatModel:
    return tiny_cnn.float_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def artifact(model: FloatModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifact") / "tiny.pt"
    BACKEND.quantize(U8S8, model, tiny_cnn.calibration(model), out)
    return out


def graph_of(model: FloatModel) -> Any:
    return graph_module(onnx.load(model.prepared), "tiny", absorb_pads=True)


def said(predict: Any, inputs: np.ndarray) -> np.ndarray:
    (values,) = predict({"x": inputs}).values()
    return np.asarray(values)


# The silent traps.


def test_eager_mode_changes_nothing_and_is_found_out(model: FloatModel) -> None:
    from torch.ao.quantization import convert, get_default_qconfig, prepare

    graph = graph_of(model)
    module = graph.module
    inputs = torch.from_numpy(tiny_cnn.images(4))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        expected = module(inputs)
        module.qconfig = get_default_qconfig("x86")
        prepared = prepare(module, inplace=False)
        prepared(inputs)
        converted = convert(prepared)
        assert torch.equal(converted(inputs), expected), "not a no-op any more: the trap is gone upstream"
        census = torch_census.census(converted, graph.nodes, EXAMPLE)
    with pytest.raises(Unsupported, match="tiny-torch-u8s8-minmax: the conversion gave no int8 weight"):
        require_int8(U8S8, census)


def test_fx_leaves_convolutions_with_quint8_weights_in_float_and_is_found_out(model: FloatModel) -> None:
    from torch.ao.quantization import MinMaxObserver, QConfig, QConfigMapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    quint8 = MinMaxObserver.with_args(dtype=torch.quint8)
    inputs = torch.from_numpy(tiny_cnn.images(4))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        mapping = QConfigMapping().set_global(QConfig(activation=quint8, weight=quint8))
        graph = graph_of(model)
        prepared = prepare_fx(graph.module, mapping, (inputs[:1],))
        prepared(inputs)
        census = torch_census.census(convert_fx(prepared), graph.nodes, EXAMPLE)
    assert census.floating.get("Conv") == 3
    assert "int8" not in census.weight_bytes
    with pytest.raises(Unsupported, match="gave no int8 weight"):
        require_int8(U8S8, census)


def test_the_reason_for_uint8_is_in_torchs_own_words() -> None:
    from torch.ao.quantization import DeQuantStub, MinMaxObserver, QConfig, QuantStub, convert, prepare

    quint8 = MinMaxObserver.with_args(dtype=torch.quint8)
    module = torch.nn.Sequential(QuantStub(), torch.nn.Conv2d(3, 4, 1), DeQuantStub()).eval()
    module.qconfig = QConfig(activation=quint8, weight=quint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare(module)
        prepared(torch.rand(1, 3, 4, 4))
        with pytest.raises(AssertionError) as raised:
            convert(prepared)
    assert BACKEND.unsupported(replace(U8S8, dtype="uint8")) == f"torch: {raised.value}"


# Exactness of the rewrites.


@settings(max_examples=40)
@given(
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    groups=st.sampled_from([1, 2]),
    size=st.integers(5, 9),
)
def test_absorbing_a_pad_is_exact(
    pads: tuple[int, int, int, int], kernel: tuple[int, int], stride: int, groups: int, size: int
) -> None:
    # Whole numbers: float32 sums of them are exact in any order, so equal means equal.
    generator = np.random.default_rng(0)
    weight = generator.integers(-8, 8, (4, 4 // groups, *kernel)).astype(np.float32)
    inputs = generator.integers(0, 16, (2, 4, size, size)).astype(np.float32)
    node = onnx.helper.make_node(
        "Conv", ["x", "w"], ["y"], name="conv", pads=pads, strides=[stride] * 2, group=groups, kernel_shape=kernel
    )
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "conv",
        [value("x", 1, [None, 4, size, size])],
        [value("y", 1, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    plain, absorbed = graph_module(proto, "conv").module, graph_module(proto, "conv", absorb_pads=True).module
    assert all(type(each).__name__ != "OnnxPadStatic" for each in absorbed.modules())
    with torch.no_grad():
        assert torch.equal(absorbed(torch.from_numpy(inputs)), plain(torch.from_numpy(inputs)))


def test_parameters_are_contiguous(model: FloatModel) -> None:
    weights = [each for each in graph_of(model).module.parameters() if each.dim() > 1]
    assert len(weights) == 4
    assert all(each.is_contiguous() for each in weights)


# Ranges handed over.


def qparams(model: FloatModel, calibration: Calibration, handed: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    graph = graph_of(model)
    with torch_runtime.running(1, "x86"), torch_runtime.deprecations():
        names = torch_observers.tensor_names(graph)
        prepared = BACKEND.prepare(graph, "minmax", "tensor", EXAMPLE)
        watched = torch_observers.observers(prepared, BACKEND.keeps)
        return torch_observers.choose(prepared, watched, handed, calibration, names, graph.signature)


def test_ranges_handed_over_reach_the_observer_of_their_tensor(model: FloatModel) -> None:
    # min and max are what both sides measure alike: equal answers prove that every name met its tensor.
    calibration = tiny_cnn.calibration(model)
    own, by_torch = qparams(model, calibration, None)
    handed, by_ptq = qparams(model, calibration, "minmax")
    assert by_torch == {"calibration": "own observers", "calibration_batch": "100"}
    assert by_ptq == {"calibration": "ptq statistics"}
    assert own.keys() == handed.keys()
    assert len({scale for scale, _ in own.values()}) > 5
    for name, (scale, zero_point) in own.items():
        assert handed[name][0] == pytest.approx(scale, rel=1e-5), name
        assert handed[name][1] == zero_point, name


def test_a_tensor_without_statistics_is_observed_and_the_note_says_so(model: FloatModel) -> None:
    whole = tiny_cnn.calibration(model)
    part = replace(whole, statistics=lambda: {n: s for n, s in whole.statistics().items() if n != "stem_relu"})
    own, _ = qparams(model, whole, None)
    mixed, notes = qparams(model, part, "minmax")
    assert notes["calibration"].startswith("ptq statistics, own observers of 1 in ")
    assert {name: point for name, (_, point) in mixed.items()} == {name: point for name, (_, point) in own.items()}


def test_methods_of_ptq_change_the_ranges(model: FloatModel, tmp_path: Path) -> None:
    calibration = tiny_cnn.calibration(model)
    kept = {}
    for method in ("minmax", "percentile"):
        out = tmp_path / f"{method}.pt"
        notes = BACKEND.quantize(replace(U8S8, method=method), model, calibration, out)
        assert notes["calibration"] == ("own observers" if method == "minmax" else "ptq statistics")
        kept[method] = TorchFile.read(out, "fx").qparams
    assert kept["minmax"].keys() == kept["percentile"].keys()
    narrower = [name for name, (scale, _) in kept["percentile"].items() if scale < kept["minmax"][name][0]]
    assert len(narrower) >= 3


# What runs, and what is said of it.


def test_every_compute_node_runs_in_integer(artifact: Path) -> None:
    census = BACKEND.census(artifact)
    assert census.integer == {"Conv": 3, "Add": 1, "AveragePool": 1, "Gemm": 1}
    assert (dict(census.floating), census.stray, census.float_nodes) == ({}, 0, ())


def test_notes_record_engine_range_and_deprecation(model: FloatModel, tmp_path: Path) -> None:
    calibration = tiny_cnn.calibration(model)
    notes = [BACKEND.quantize(U8S8, model, calibration, tmp_path / f"{turn}.pt") for turn in range(2)]
    assert notes[0] == notes[1], "a note depends on what ran before in the process"
    assert notes[0]["engine"] == "x86"
    assert notes[0]["reduce_range"] == "False"
    assert notes[0]["activations"] == "quint8 per tensor"
    assert "torch.ao.quantization is deprecated" in notes[0]["deprecated"]
    default = replace(U8S8, method="default", granularity="channel")
    assert BACKEND.quantize(default, model, calibration, tmp_path / "d.pt")["reduce_range"] == "True"


def test_torchs_own_configuration_is_what_default_means() -> None:
    from torch.ao.quantization import get_default_qconfig_mapping

    with torch_runtime.deprecations():
        ours, theirs = BACKEND.configuration("default", "channel"), get_default_qconfig_mapping("x86")
    assert str(ours.global_qconfig) == str(theirs.global_qconfig)


def test_threads_and_engine_of_the_process_are_put_back(model: FloatModel, tmp_path: Path) -> None:
    before = torch.get_num_threads(), torch.backends.quantized.engine
    try:
        torch.set_num_threads(2)
        torch.backends.quantized.engine = "fbgemm"
        out = tmp_path / "tiny.pt"
        BACKEND.quantize(U8S8, model, tiny_cnn.calibration(model), out)
        BACKEND.load(out, threads=1)({"x": tiny_cnn.images(2)})
        assert (torch.get_num_threads(), torch.backends.quantized.engine) == (2, "fbgemm")
        assert not torch.is_warn_always_enabled()
    finally:
        torch.set_num_threads(before[0])
        torch.backends.quantized.engine = before[1]


@pytest.mark.parametrize("batch", [1, 8])
def test_a_model_of_fixed_batch_takes_any_number(batch: int, artifact: Path, tmp_path: Path) -> None:
    fixed = tiny_cnn.float_model(tmp_path, batch=batch)
    out = tmp_path / "fixed.pt"
    BACKEND.quantize(U8S8, fixed, tiny_cnn.calibration(fixed, tiny_cnn.samples(64)), out)
    inputs = tiny_cnn.images(11, seed=9)
    values = said(BACKEND.load(out), inputs)
    assert values.shape == (11, tiny_cnn.CLASSES)
    np.testing.assert_allclose(values, said(BACKEND.load(artifact), inputs), atol=0.05)


# The file.


class Marker:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_tampered_file_is_refused_and_runs_nothing(artifact: Path, tmp_path: Path) -> None:
    marker, evil = tmp_path / "ran", tmp_path / "evil.pt"
    content = torch.load(artifact, weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({**content, "settings": {**content["settings"], "shapes": Marker(marker)}}, evil)
        torch.load(evil, weights_only=False)
    assert marker.exists(), "the file does not do harm when it is trusted: the test proves nothing"
    marker.unlink()
    with pytest.raises(BadModel, match="refused, holds more than tensors"):
        BACKEND.load(evil)
    evil.write_bytes(pickle.dumps(Marker(marker)))
    with pytest.raises(BadModel):
        BACKEND.load(evil)
    assert not marker.exists()


def tampered(artifact: Path, out: Path, **changes: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({**torch.load(artifact, weights_only=True), **changes}, out)
    return out


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"format": "ptq-torch-1"}, "is not a .pt of format ptq-torch-2; make the file anew"),
        ({"kind": "pt2e"}, "kind 'pt2e', but should be one of float, fx"),
        ({"settings": {}}, "cannot be rebuilt ('shapes')"),
        ({"settings": {"shapes": "a,b", "granularity": "tensor"}}, "cannot be rebuilt"),
        ({"settings": {"shapes": "2,12,12,3000000000", "granularity": "tensor"}}, "cannot be rebuilt"),
        ({"state": {}}, "bytes of weights, but its state has 0"),
        ({"state": {"n2": torch.zeros(9999)}}, "its state does not fit its graph"),
        ({"state": [1]}, "its state is not a state_dict"),
        ({"qparams": {}}, "cannot be rebuilt"),
        ({"qparams": {"a": 3}}, "a part of the .pt is absent or wrong"),
        ({"graph": torch.zeros(4, dtype=torch.uint8)}, "its graph is not ONNX"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_part_is_one_line(artifact: Path, tmp_path: Path, changes: dict[str, Any], fact: str) -> None:
    path = tampered(artifact, tmp_path / "wrong.pt", **changes)
    with pytest.raises(BadModel) as caught:
        BACKEND.load(path)
    assert fact in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_file_carries_weights_once_and_in_int8(artifact: Path, model: FloatModel) -> None:
    file = TorchFile.read(artifact, "fx")
    stored = sum(each.ByteSize() for each in onnx.ModelProto.FromString(file.graph).graph.initializer)
    assert stored < 1500, "the graph still has its float weights"
    weights = [each for each in file.state.values() if isinstance(each, torch.Tensor) and each.dim() > 1]
    assert {each.dtype for each in weights} == {torch.qint8}


def test_inspect_names_modules_and_types(artifact: Path) -> None:
    rows = {name: kind for name, kind, _ in BACKEND.inspect(artifact)}
    assert rows["down"].endswith("ConvReLU2d")
    assert "quantized" in rows["down"]


def test_convert_helpers_are_what_quantize_uses(model: FloatModel) -> None:
    # The pieces the traps above are built from must stay the ones that run.
    with torch_runtime.running(1, "x86"), torch_runtime.deprecations():
        graph = graph_of(model)
        prepared = BACKEND.prepare(graph, "minmax", "tensor", EXAMPLE)
        chosen, _ = qparams(model, tiny_cnn.calibration(model), None)
        converted = BACKEND.convert(prepared, "tensor", chosen)
        require_int8(U8S8, torch_census.census(converted, graph.nodes, EXAMPLE))


def test_an_archive_that_unfolds_is_refused_before_it_does(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/version", "3\n")
        archive.writestr("x/data.pkl", bytes(1 << 20))
    with pytest.raises(BadModel, match=r"bomb.pt: is compressed, but a .pt of ptq is not; refused"):
        TorchFile.read(tmp_path / "bomb.pt", "fx")
