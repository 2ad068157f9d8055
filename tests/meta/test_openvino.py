"""The OpenVINO backend: what runs in integer, models of words, one file that can be trusted, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_encoder import padded, sentences, write_encoder
from small_model import IMAGES, fit, model_of, small_model

from ptq.api import compare, quantize
from ptq.backends.onnxruntime import OnnxRuntime
from ptq.backends.openvino import BACKENDS
from ptq.backends.openvino.file import IR, ONNX, WEIGHTS, opened, pack
from ptq.backends.protocol import FloatModel
from ptq.calibration.moments_pass import moments
from ptq.calibration.prepare import prepare
from ptq.calibration.statistics_pass import statistics
from ptq.cases import FP32, Case
from ptq.data.batch import as_batch, only
from ptq.data.samples import ArraySamples
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.errors import BadModel, Unsupported
from ptq.quantization.calibration import Calibration
from ptq.quantization.dtype import DTYPES

pytest.importorskip("openvino", reason="not installed: pip install 'ptq[openvino]'")
nncf_needed = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("nncf") is None, reason="not installed: pip install 'ptq[openvino]'"
)

(BACKEND,) = BACKENDS
FLOAT = Case("m", "openvino", FP32)
MINMAX = Case("m", "openvino", "u8s8", "minmax", "channel")
PRESET = Case("m", "openvino", "int8", "performance", "channel")
TRANSFORMER = Case("m", "openvino", "u8s8", "transformer", "channel")


def quantized(case: Case, model: Path, samples: ArraySamples, out: Path) -> Path:
    """The artifact of a case of any model."""
    ready = model.with_suffix(".prepared.onnx")
    if not ready.exists():
        prepare(model, ready)
    fitted = fit(model, samples)
    calibration = Calibration(
        fitted, lambda: statistics(ready, fitted), Registry().methods, lambda: moments(ready, fitted)
    )
    BACKEND.quantize(case, FloatModel(model, ready), calibration, out)
    return out


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("small")
    model = small_model(folder / "m.onnx")
    cases = {"float": FLOAT, "minmax": MINMAX}
    return {"model": model} | {
        name: quantized(case, model, IMAGES, folder / f"{name}.ovz") for name, case in cases.items()
    }


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "m.onnx")


@pytest.fixture(scope="module")
def preset(small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    if __import__("importlib.util").util.find_spec("nncf") is None:
        pytest.skip("not installed: pip install 'ptq[openvino]'")
    return quantized(PRESET, small["model"], IMAGES, tmp_path_factory.mktemp("preset") / "m.ovz")


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_artifact_of_a_method_of_ptqs_is_the_qdq_model_of_the_onnxruntime_backend(
    small: dict[str, Path], tmp_path: Path
) -> None:
    """So whatever is known of one holds for the other, and the file inside serves both runtimes."""
    model, out = small["model"], tmp_path / "ort.onnx"
    fitted = fit(model, IMAGES)
    ready = model.with_suffix(".prepared.onnx")
    calibration = Calibration(fitted, lambda: statistics(ready, fitted), Registry().methods)
    OnnxRuntime().quantize(
        Case("m", "onnxruntime", "u8s8", "minmax", "channel"), FloatModel(model, ready), calibration, out
    )
    assert members(small["minmax"]) == {ONNX: out.read_bytes()}


def test_an_int8_convolution_is_integer_and_one_kept_in_float_is_not(small: dict[str, Path], tmp_path: Path) -> None:
    census = BACKEND.census(small["minmax"])
    assert (census.integer["Conv"], census.floating.get("Conv", 0)) == (2, 0), census
    assert census.weight_bytes["int8"] >= 8 * 3 * 9
    assert census.float_nodes == ()
    kept = tmp_path / "kept.ovz"
    ready = small["model"].with_suffix(".prepared.onnx")
    fitted = fit(small["model"], IMAGES)
    calibration = Calibration(fitted, lambda: statistics(ready, fitted), Registry().methods)
    case = Case("m", "openvino", "u8s8", "minmax", "channel", "auto")
    BACKEND.quantize(case, FloatModel(small["model"], ready, exclude=("c2",)), calibration, kept)
    census = BACKEND.census(kept)
    assert (census.integer["Conv"], census.floating["Conv"], census.float_nodes[0]) == (1, 1, "c2"), census
    assert census.stray >= 1
    assert census.cause
    assert BACKEND.census(small["float"]).floating == {"Conv": 2, "AveragePool": 1, "Gemm": 2}


@nncf_needed
def test_a_preset_is_read_from_one_file_of_two(preset: Path) -> None:
    assert sorted(members(preset)) == [WEIGHTS, IR]
    census = BACKEND.census(preset)
    assert census.integer["Conv"] >= 1, census
    have = BACKEND.signature(preset)
    assert [str(tensor) for tensor in (*have.inputs, *have.outputs)] == [
        "'x' float32 (?, 3, 8, 8)",
        "'y' float32 (?, 4)",
    ]


def test_words_of_any_length_in_two_inputs_of_integers(encoder: Path, tmp_path: Path) -> None:
    samples = sentences(24)
    out = quantized(FLOAT, encoder, samples, tmp_path / "float.ovz")
    reference = OnnxRuntime().load(encoder)
    made = quantized(MINMAX, encoder, samples, tmp_path / "minmax.ovz")
    predict, integer = BACKEND.load(out), BACKEND.load(made)
    assert [(each.name, each.dtype, each.shape) for each in BACKEND.signature(made).inputs] == [
        ("ids", "int64", (None, None)), ("mask", "int64", (None, None)),
    ]  # fmt: skip
    for batch in map(as_batch, samples.batches(4)):
        backwards = dict(reversed(batch.items()))  # inputs go by name, whatever their order
        np.testing.assert_allclose(only(predict(backwards)), only(reference(batch)), atol=1e-4)
        assert only(integer(batch)).shape == only(reference(batch)).shape


@pytest.mark.slow
@nncf_needed
def test_a_preset_for_transformers_takes_words_of_any_length(encoder: Path, tmp_path: Path) -> None:
    samples = sentences(24)
    made = quantized(TRANSFORMER, encoder, samples, tmp_path / "made.ovz")
    whole = padded(sentences(5, seed=3))
    batch = {name: np.asarray(values) for name, values in whole.inputs.items()}  # type: ignore[union-attr]
    reference = only(OnnxRuntime().load(encoder)(batch))
    noise = only(BACKEND.load(made)(batch)) - reference
    assert 0 < np.square(noise).sum() < 0.05 * np.square(reference).sum()
    assert BACKEND.census(made).integer.get("Gemm", 0) >= 3


def test_outputs_have_their_names_and_their_order(tmp_path: Path) -> None:
    node = helper.make_node
    held = [numpy_helper.from_array(np.array([2, 3], np.int64), "sizes")]
    model = model_of(tmp_path / "m.onnx", [node("Split", ["x", "sizes"], ["y", "b"], axis=1)], ["N", 5], ["N", 2], held)
    proto = onnx.load(model)
    proto.graph.output.insert(0, helper.make_tensor_value_info("b", 1, ["N", 3]))
    onnx.save(proto, model)
    out = quantized(FLOAT, model, ArraySamples(np.zeros((2, 5), np.float32)), tmp_path / "m.ovz")
    inputs = np.arange(10, dtype=np.float32).reshape(2, 5)
    said = BACKEND.load(out)({"whatever": inputs})
    assert list(said) == ["b", "y"]
    np.testing.assert_array_equal(said["b"], inputs[:, 2:])
    np.testing.assert_array_equal(said["y"], inputs[:, :2])


def test_answers_are_not_changed_by_the_next_call(small: dict[str, Path]) -> None:
    predict = BACKEND.load(small["float"])
    inputs = np.asarray(IMAGES.inputs)
    first = only(predict({"x": inputs[:4]}))
    kept = first.copy()
    predict({"x": inputs[4:8]})
    np.testing.assert_array_equal(first, kept)


def test_what_does_not_run_is_told_in_one_line(small: dict[str, Path]) -> None:
    with pytest.raises(BadModel, match=r"does not run with x float32 \(2, 4, 8, 8\)") as refused:
        BACKEND.load(small["float"])({"x": np.zeros((2, 4, 8, 8), np.float32)})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", sorted({*DTYPES} - {"u8s8", "int8"}))
def test_a_dtype_without_integer_kernels_is_unsupported_in_words(dtype: str) -> None:
    assert "in float" in str(BACKEND.unsupported(Case("m", "openvino", dtype, "minmax")))


def test_what_a_preset_cannot_do_is_unsupported_in_words(tmp_path: Path, encoder: Path) -> None:
    case = Case("m", "openvino", "int8", "mixed", "channel")
    with pytest.raises(Unsupported, match="NNCF's mixed makes u8s8 with weights per channel"):
        quantized(case, encoder, sentences(4), tmp_path / "m.ovz")


def test_every_workload_lists_few_cases_and_those_it_names() -> None:
    cases = [case for case in BACKEND.cases("w", Registry().methods) if case.exclude == "none"]
    listed = [case for case in cases if not BACKEND.on_demand(case)]
    assert len(listed) == 1 + 4 + 4
    assert {case.method for case in listed} == {
        "none", "performance", "performance_no_overflow_fix", "mixed", "mixed_no_overflow_fix", "minmax", "mse_gptq",
    }  # fmt: skip
    assert BACKEND.graph(PRESET) != BACKEND.graph(MINMAX)


def test_its_artifacts_are_known_by_their_paths_alone(small: dict[str, Path], tmp_path: Path) -> None:
    """And an ONNX file runs in it when it is asked to."""
    store = Store(tmp_path / "store")
    found = compare(small["model"], small["minmax"], batch=2, seconds=0.3, max_ratio=100, store=store)
    assert (found.a.runtime, found.b.runtime) == ("onnxruntime", "openvino")
    assert found.b.census.integer["Conv"] == 2
    inputs = {"x": np.asarray(IMAGES.inputs)}
    assert BACKEND.census(small["model"]) == BACKEND.census(small["float"])
    np.testing.assert_array_equal(
        only(BACKEND.load(small["model"])(inputs)), only(BACKEND.load(small["float"])(inputs))
    )
    (tmp_path / "m.xml").write_text("<net/>")
    with pytest.raises(BadModel, match=r"zip -0 model.ovz model.xml model.bin"):
        BACKEND.load(tmp_path / "m.xml")


def test_quantize_takes_the_best_method_there_is(small: dict[str, Path], tmp_path: Path) -> None:
    made = quantize(small["model"], IMAGES.inputs, backend="openvino", store=Store(tmp_path / "store"))
    assert str(made.case) == "m-openvino-u8s8-mse_gptq-channel"
    kept = quantize(
        small["model"], IMAGES.inputs, backend="openvino", exclude="c2", store=Store(tmp_path / "store"),
        method="entropy", out=tmp_path / "kept.ovz",
    )  # fmt: skip
    assert "c2" in BACKEND.census(kept.path).float_nodes


# One file that can be trusted.


def test_the_same_members_are_the_same_bytes(small: dict[str, Path], tmp_path: Path) -> None:
    pack(members(small["float"]), tmp_path / "again.ovz")
    assert (tmp_path / "again.ovz").read_bytes() == small["float"].read_bytes()


@pytest.mark.slow
@nncf_needed
def test_a_preset_makes_the_same_bytes_again(preset: Path, small: dict[str, Path], tmp_path: Path) -> None:
    again = quantized(PRESET, small["model"], IMAGES, tmp_path / "again.ovz")
    assert hashlib.sha256(again.read_bytes()).hexdigest() == hashlib.sha256(preset.read_bytes()).hexdigest()


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def external(whole: dict[str, bytes]) -> bytes:
    """Weights that are a file of whoever loads the model."""
    model = onnx.ModelProto.FromString(whole[ONNX])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    return zipped({ONNX: model.SerializeToString()})


DAMAGE: dict[str, tuple[str, Callable[[dict[str, bytes]], bytes]]] = {
    "a folder above": ("holds ../model.onnx", lambda whole: zipped({f"../{ONNX}": whole[ONNX]})),
    "more files": ("holds model.onnx, run.sh", lambda whole: zipped({**whole, "run.sh": b""})),
    "nothing": ("holds nothing", lambda whole: zipped({})),
    "a bomb": ("is compressed", lambda whole: zipped({ONNX: bytes(10**6)}, zipfile.ZIP_DEFLATED)),
    "no model": ("cannot read the model", lambda whole: zipped({ONNX: b"\x08\x07not a model"})),
    "half a model": ("cannot read the model", lambda whole: zipped({ONNX: whole[ONNX][:500]})),
    "a name of bytes": ("cannot read the model", lambda whole: zipped({ONNX: whole[ONNX].replace(b"c2", b"c\xee")})),
    "another file": ("lie in another file; refused", external),
    "no network": ("cannot read the model", lambda whole: zipped({IR: b"<net/>", WEIGHTS: b""})),
    "a cut": ("is not a whole .ovz file", lambda whole: zipped(whole)[:-200]),
    "a wrong byte": ("is not a whole .ovz file", lambda whole: zipped(whole).replace(b"Conv", b"Conw", 1)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_refused_in_one_line(kind: str, small: dict[str, Path], tmp_path: Path) -> None:
    fact, damage = DAMAGE[kind]
    path = tmp_path / "damaged.ovz"
    path.write_bytes(damage(members(small["float"])))
    for act in (BACKEND.load, BACKEND.signature, BACKEND.census, BACKEND.inspect):
        with pytest.raises(BadModel) as refused:
            act(path)
        said = str(refused.value)
        assert said.startswith(f"{path}: ")
        assert fact in said
        assert said.isprintable()
        assert len(said) < 500


@nncf_needed
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'offset="0"', b'offset="99999999"'),
        (b'size="216"', b'size="99999999999"'),
        (b'type="Convolution"', b'type="Nope"'),
        (b'from-layer="0"', b'from-layer="99999"'),
        (b"</layers>", b""),
    ],
)
def test_a_crafted_network_is_refused_in_one_line(old: bytes, new: bytes, preset: Path, tmp_path: Path) -> None:
    whole = members(preset)
    assert old in whole[IR]
    path = tmp_path / "crafted.ovz"
    pack({**whole, IR: whole[IR].replace(old, new)}, path)
    with pytest.raises(BadModel) as refused:
        BACKEND.load(path)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


@nncf_needed
def test_weights_that_are_cut_are_refused(preset: Path, tmp_path: Path) -> None:
    whole = members(preset)
    for left in (0, 1, len(whole[WEIGHTS]) // 2):
        path = tmp_path / f"{left}.ovz"
        pack({**whole, WEIGHTS: whole[WEIGHTS][:left]}, path)
        with pytest.raises(BadModel):
            opened(path)
