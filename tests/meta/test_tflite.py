"""The TFLite backend: what a model takes and returns, and the converter's words."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_cnn

from ptq.backends.int8_proof import require_int8
from ptq.backends.protocol import FloatModel
from ptq.backends.tflite import BACKEND
from ptq.backends.tflite_convert import ENDS, convert_int8
from ptq.cases import Case
from ptq.errors import BadModel, Unsupported

pytest.importorskip("ai_edge_litert", reason="not installed: pip install 'ptq[litert]'")

INT8 = Case("tiny", "tflite", "int8", "minmax", "channel")
needs_tensorflow = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("tensorflow") is None, reason="not installed: pip install 'ptq[tf]'"
)


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras") / "tiny.keras"
    subprocess.run([sys.executable, "-c", tiny_cnn.KERAS_SCRIPT, str(path)], check=True, capture_output=True)
    return path


@needs_tensorflow
def test_every_kind_of_end_says_the_same(keras: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said, inputs = {}, tiny_cnn.images(12, seed=8)
    for ends in ENDS:
        out = tmp_path / f"{ends}.tflite"
        convert_int8(keras, out, tiny_cnn.samples(60), per_channel=True, ends=ends)
        census = BACKEND.census(out)
        assert census.integer.get("Conv") == 3
        assert (dict(census.floating), census.stray) == ({}, 0), f"{ends}: {census}"
        said[ends] = BACKEND.load(out)(inputs)
        assert said[ends].dtype == np.float32
        assert set(np.unique(said[ends] * 256 % 1)) == {0}, "softmax has a fixed scale of 1/256"
    np.testing.assert_array_equal(said["uint8"], said["int8"])
    np.testing.assert_array_equal(said["float32"], said["int8"])
    assert capfd.readouterr() == ("", ""), "the runtime's log reached the terminal"


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
        convert_int8(evil, tmp_path / "out.tflite", tiny_cnn.samples(8), per_channel=True)
    assert not (tmp_path / "out.tflite").exists()


def test_a_workload_without_keras_is_unsupported(tmp_path: Path) -> None:
    model = FloatModel(tmp_path / "a.onnx", tmp_path / "a.onnx")
    with pytest.raises(Unsupported, match="tiny-tflite-int8-minmax-channel: the workload's model is ONNX"):
        BACKEND.quantize(INT8, model, None, tmp_path / "out.tflite")  # type: ignore[arg-type]
