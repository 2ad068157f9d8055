"""The TFLite backend: what a model takes and returns, and the converter's words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptq.backends.int8_proof import require_int8
from ptq.backends.protocol import FloatModel
from ptq.backends.tflite import BACKENDS
from ptq.backends.tflite.convert import ENDS, convert_int8
from ptq.backends.tflite.interpreter import plain
from ptq.cases import Case
from ptq.conformance import network
from ptq.data.batch import only
from ptq.data.samples import ArraySamples
from ptq.errors import BadModel, Unsupported
from ptq.quantization.calibration import Calibration

pytest.importorskip("ai_edge_litert", reason="not installed: pip install 'ptq[litert]'")

(BACKEND,) = BACKENDS
INT8 = Case("tiny", "tflite", "int8", "minmax", "channel")
needs_tensorflow = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("tensorflow") is None, reason="not installed: pip install 'ptq[tf]'"
)
# Two inputs, one of integers, of varying length; an image of any size; each with a model of its own.
MORE = """
import sys, keras
from keras import Model, layers
keras.utils.set_random_seed(2)
ids, mask = layers.Input((None,), dtype="int32", name="ids"), layers.Input((None,), name="mask")
x = layers.GlobalAveragePooling1D()(layers.Embedding(10, 8)(ids) * layers.Reshape((-1, 1))(mask))
two = Model([ids, mask], [layers.Dense(3, name="second")(x), layers.Dense(2, name="first")(x)])
two.save(sys.argv[1] + "/two.keras")
image = layers.Input((None, None, 3), name="image")
x = layers.Conv2DTranspose(4, 3)(layers.Conv2D(4, 3)(image))
Model(image, layers.GlobalAveragePooling2D()(x)).save(sys.argv[1] + "/free.keras")
"""


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras") / "tiny.keras"
    subprocess.run([sys.executable, "-c", network.KERAS_SCRIPT, str(path)], check=True, capture_output=True)
    return path


def made(name: str, samples: ArraySamples, folder: Path) -> Path:
    """A model of `MORE`, quantized."""
    subprocess.run([sys.executable, "-c", MORE, str(folder)], check=True, capture_output=True)
    onnx, out = folder / "unused.onnx", folder / f"{name}.tflite"
    BACKEND.quantize(INT8, FloatModel(onnx, onnx, folder / f"{name}.keras"), Calibration(samples, dict, {}), out)
    return out


def ragged(count: int, one: Callable[[int], np.ndarray]) -> list[np.ndarray]:
    return [one(size) for size in 3 + np.arange(count) % 4]


@needs_tensorflow
def test_every_kind_of_end_says_the_same(keras: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said, inputs = {}, network.images(12, seed=8)
    for ends in ENDS:
        out = tmp_path / f"{ends}.tflite"
        convert_int8(keras, out, network.samples(60), per_channel=True, ends=ends)
        census = BACKEND.census(out)
        assert dict(census.integer) == {"Conv": 3, "Add": 1, "AveragePool": 1, "Gemm": 1}
        assert (dict(census.floating), census.stray) == ({}, 0), f"{ends}: {census}"
        operators = [operator for _, operator, _ in BACKEND.inspect(out)]
        assert operators.count("CONV_2D") == 3
        said[ends] = only(BACKEND.load(out)({"any name": inputs}))
        assert said[ends].dtype == np.float32
        assert set(np.unique(said[ends] * 256 % 1)) == {0}, "softmax has a fixed scale of 1/256"
    np.testing.assert_array_equal(said["uint8"], said["int8"])
    np.testing.assert_array_equal(said["float32"], said["int8"])
    with pytest.raises(BadModel, match=r"int8.tflite: does not run on '\w+' float32 \(1, 5, 12, 3\) \(.*ResizeInput"):
        BACKEND.load(tmp_path / "int8.tflite")({"x": inputs[:, :5]})
    assert capfd.readouterr() == ("", ""), "the runtime's log reached the terminal"


@needs_tensorflow
def test_several_inputs_are_told_apart_by_name_and_keep_their_types(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    inputs = {
        "mask": ragged(12, lambda size: generator.uniform(0, 1, size).astype(np.float32)),
        "ids": ragged(12, lambda size: generator.integers(0, 10, size).astype(np.int32)),
    }
    out = made("two", ArraySamples(inputs), tmp_path)
    signature = BACKEND.signature(out)
    assert set(map(str, signature.inputs)) == {"'ids' int32 (?, ?)", "'mask' float32 (?, ?)"}
    assert [(tensor.name, tensor.shape[1]) for tensor in signature.outputs] == [("output_0", 3), ("output_1", 2)]
    predict = BACKEND.load(out)
    for size in (4, 6, 4):
        ids, mask = np.arange(2 * size, dtype=np.int64).reshape(2, size) % 10, np.ones((2, size), np.float32)
        said = predict({"mask": mask, "ids": ids})
        assert {name: values.shape for name, values in said.items()} == {"output_0": (2, 3), "output_1": (2, 2)}
        again = predict({"ids": ids[1:], "serving_default_mask:0": mask[1:]})
        np.testing.assert_array_equal(again["output_0"], said["output_0"][1:])
    assert dict(BACKEND.census(out).integer) == {"Gemm": 2}
    with pytest.raises(BadModel, match=r"two.tflite: takes .*'ids'.*, but is given 'ids', 'weights'; .* by name"):
        predict({"ids": ids, "weights": mask})


@needs_tensorflow
def test_an_image_of_any_size(tmp_path: Path) -> None:
    """A mean over the map is a pool; a transposed convolution is known by its weights, not its first input."""
    out = made("free", ArraySamples(list(network.images(20))), tmp_path)
    (taken,) = BACKEND.signature(out).inputs
    assert taken.shape == (None, None, None, 3)
    predict = BACKEND.load(out)
    for size in (9, 12):
        assert only(predict({"image": network.images(3)[:, :size]})).shape == (3, 4)
    census = BACKEND.census(out)
    assert dict(census.integer) == {"Conv": 1, "ConvTranspose": 1, "GlobalAveragePool": 1}
    assert (dict(census.floating), census.stray) == ({}, 0)


def test_names_are_what_is_left_without_tensorflows_additions() -> None:
    assert list(map(plain, ("serving_default_x:0", "x:0", "x:01", "x"))) == ["x", "x", "x:01", "x"]


@needs_tensorflow
def test_the_reason_for_uint8_is_in_the_converters_own_words(keras: Path) -> None:
    code = f"""
import keras, numpy as np, tensorflow as tf
model = keras.models.load_model({str(keras)!r}, compile=False)
for ends in (tf.uint8, tf.float32):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([np.ones((1, 12, 12, 3), np.float32)] for _ in range(2))
    converter.target_spec.supported_types = [tf.uint8]
    converter.inference_input_type = converter.inference_output_type = ends
    try:
        open({str(keras.with_suffix(".tflite"))!r}, "wb").write(converter.convert())
    except ValueError as error:
        print("SAID", error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    said = [each.removeprefix("SAID ") for each in done.stdout.splitlines() if each.startswith("SAID ")]
    reason = BACKEND.unsupported(replace(INT8, dtype="uint8"))
    assert reason is not None
    assert len(said) == 1
    assert said[0] in reason
    # Asked with float ends it raises nothing and converts nothing: the silent trap.
    with pytest.raises(Unsupported, match="gave no int8 weight"):
        require_int8(INT8, BACKEND.census(keras.with_suffix(".tflite")))


@needs_tensorflow
def test_a_keras_file_with_code_in_it_is_refused(keras: Path, tmp_path: Path) -> None:
    import zipfile

    evil = tmp_path / "evil.keras"
    with zipfile.ZipFile(keras) as source, zipfile.ZipFile(evil, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(b'"ReLU"', b'"Lambda"') if name == "config.json" else content)
    with pytest.raises(BadModel, match="Lambda, which is code to run"):
        convert_int8(evil, tmp_path / "out.tflite", network.samples(8), per_channel=True)
    assert not (tmp_path / "out.tflite").exists()


@needs_tensorflow
def test_what_the_converter_refuses_is_unsupported_in_its_own_words(keras: Path, tmp_path: Path) -> None:
    small = ArraySamples(network.images(4)[:, :5])
    model, out = FloatModel(tmp_path / "a.onnx", tmp_path / "a.onnx", keras), tmp_path / "out.tflite"
    with pytest.raises(
        Unsupported, match=r"^tiny-tflite-int8-minmax-channel: .*tiny\.keras: TFLite's converter refuses"
    ):
        BACKEND.quantize(INT8, model, Calibration(small, dict, {}), out)
    assert not out.exists()


def test_a_workload_without_keras_is_unsupported(tmp_path: Path) -> None:
    model = FloatModel(tmp_path / "a.onnx", tmp_path / "a.onnx")
    with pytest.raises(Unsupported, match="tiny-tflite-int8-minmax-channel: there is no Keras form"):
        BACKEND.quantize(INT8, model, None, tmp_path / "out.tflite")  # type: ignore[arg-type]
