"""The ONNX form of a Keras, TFLite or TensorFlow model: faithful, byte-reproducible, and never a way to run code."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from ptq.data import cifar10
from ptq.errors import BadModel, NotInstalled
from ptq.models import keras_file
from ptq.models.convert import is_model, missing, to_onnx
from ptq.models.keras_file import check_config
from ptq.models.onnx_file import signature
from ptq.models.original import in_order

needs_tf = pytest.mark.skipif(missing() is not None, reason=f"{missing()}")

# Makes the models in a process of its own, so that TensorFlow never enters this one.
MAKE = """
import sys, keras, tensorflow as tf
from pathlib import Path
from keras import Model, layers
root, proof = Path(sys.argv[1]), sys.argv[2]
keras.utils.set_random_seed(1)

def model(*more):
    image = layers.Input((8, 8, 3), name="image")
    x = image
    for layer in (*more, layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten()):
        x = layer(x)
    return Model(image, layers.Dense(3, activation="softmax")(x), name="plain")

plain = model()
plain.save(root / "plain.keras")
plain.save(root / "plain.h5")
model(layers.DepthwiseConv2D(3, padding="same"), layers.Conv2DTranspose(3, 3, padding="same")).save(root / "old.h5")
touch = eval("lambda x: (__import__('pathlib').Path(%r).touch(), x)[1]" % proof)
model(layers.Lambda(touch)).save(root / "lambda.keras")
model(layers.Lambda(touch)).save(root / "lambda.h5")

ids, mask = layers.Input((None,), dtype="int32", name="ids"), layers.Input((None,), name="mask")
x = layers.GlobalAveragePooling1D()(layers.Embedding(10, 8)(ids) * layers.Reshape((-1, 1))(mask))
two = Model([ids, mask], [layers.Dense(3, name="second")(x), layers.Dense(2, name="first")(x)])
two.save(root / "two.keras")
two.export(root / "two_saved", verbose=False)

class Writer(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
    def __call__(self, x):
        tf.io.write_file(proof, "written")
        return {"y": x * 2}
writer = Writer()
tf.saved_model.save(writer, str(root / "writing_saved"), signatures=writer.__call__)

image = layers.Input((8, 8, 3), name="image")
large = Model(image, layers.Dense(3)(layers.Dense(16)(layers.Flatten()(image))))  # small layers stay in float
converter = tf.lite.TFLiteConverter.from_keras_model(large)
converter.optimizations = [tf.lite.Optimize.DEFAULT]  # integer weights alone
(root / "weights.tflite").write_bytes(converter.convert())
converter.representative_dataset = lambda: ([tf.ones((1, 8, 8, 3))] for _ in range(2))
(root / "int8.tflite").write_bytes(converter.convert())
"""
LOAD_UNSAFE = "import sys, keras; keras.models.load_model(sys.argv[1], compile=False, safe_mode=False)"


def in_own_process(code: str, *arguments: object) -> None:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **quiet}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    in_own_process(MAKE, folder, folder / "ran")
    (folder / "ran").unlink(missing_ok=True)  # building a Lambda layer calls it once
    return folder


def refused(source: Path, out: Path) -> str:
    with pytest.raises(BadModel) as caught:
        to_onnx(source, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    return str(caught.value)


@needs_tf
def test_it_is_faithful_silent_and_imports_nothing_from_the_current_folder(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever form the model has and whatever else lies beside it, the bytes are the same."""
    beside, proof = tmp_path / "download", tmp_path / "ran"
    beside.mkdir()
    shutil.copy(models / "plain.h5", beside)
    for name in ("numpy", "json", "onnx", "keras", "h5py", "sitecustomize"):
        (beside / f"{name}.py").write_text(f"open({str(proof)!r}, 'w')\n")
    monkeypatch.chdir(beside)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", str(beside), "sub/.."]))
    note = to_onnx(Path("plain.h5"), Path("out.onnx"))
    assert not proof.exists()
    assert capfd.readouterr() == ("", "")
    assert note.startswith("onnx and Keras: max difference ")
    assert "same top-1 on 100.0% of 16 random inputs" in note
    subprocess.run([sys.executable, "-c", "import json"], check=False, capture_output=True)
    assert proof.exists(), "the attack is real: without the safe path it runs"
    model = onnx.load("out.onnx")
    (entry,) = model.graph.input
    assert entry.name == "image"
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [size.dim_param or size.dim_value for size in entry.type.tensor_type.shape.dim] == ["N", 8, 8, 3]
    session = onnxruntime.InferenceSession("out.onnx")
    for n in (1, 5):
        assert session.run(None, {"image": np.zeros((n, 8, 8, 3), np.float32)})[0].shape == (n, 3)
    to_onnx(models / "plain.keras", tmp_path / "again.onnx")
    assert Path("out.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


@needs_tf
@pytest.mark.parametrize(
    ("name", "outputs"), [("two.keras", ["second", "first"]), ("two_saved", ["output_0", "output_1"])]
)
def test_several_inputs_integers_and_varying_lengths(
    models: Path, tmp_path: Path, name: str, outputs: list[str]
) -> None:
    assert is_model(models / name)
    to_onnx(models / name, tmp_path / "out.onnx")
    said = signature(tmp_path / "out.onnx")
    assert list(map(str, said.inputs)) == ["'ids' int32 (?, ?)", "'mask' float32 (?, ?)"]
    assert [(tensor.name, tensor.shape[1]) for tensor in said.outputs] == list(zip(outputs, (3, 2), strict=True))
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    for n, length in ((1, 3), (4, 7)):
        given = {"ids": np.ones((n, length), np.int32), "mask": np.ones((n, length), np.float32)}
        assert [values.shape for values in session.run(None, given)] == [(n, 3), (n, 2)]


@needs_tf
def test_a_tflite_file_whose_weights_alone_are_integers(models: Path, tmp_path: Path) -> None:
    note = to_onnx(models / "weights.tflite", tmp_path / "out.onnx")
    assert note.startswith("onnx and TFLite: max difference ")
    assert "integer weights of the file taken as the floats they stand for" in note
    assert list(map(str, signature(tmp_path / "out.onnx").inputs)) == ["'image' float32 (?, 8, 8, 3)"]
    model = onnx.load(tmp_path / "out.onnx")
    assert "DequantizeLinear" not in {node.op_type for node in model.graph.node}
    assert onnx.TensorProto.INT8 not in {weight.data_type for weight in model.graph.initializer}


@needs_tf
def test_a_quantized_tflite_file_is_refused(models: Path, tmp_path: Path) -> None:
    assert "is quantized already" in (said := refused(models / "int8.tflite", tmp_path / "out.onnx"))
    assert said.endswith("judge it as an artifact")


@needs_tf
def test_a_saved_model_that_reaches_out_is_refused_and_writes_nothing(models: Path, tmp_path: Path) -> None:
    assert "has the op WriteFile" in refused(models / "writing_saved", tmp_path / "out.onnx")
    assert not (models / "ran").exists()
    (shutil.copytree(models / "two_saved", tmp_path / "chunked") / "saved_model.cpb").touch()
    assert "has a saved_model.cpb" in refused(tmp_path / "chunked", tmp_path / "out.onnx")


@needs_tf
def test_a_saved_model_that_does_not_load_names_the_remedy(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "two_saved", tmp_path / "half", ignore=shutil.ignore_patterns("variables"))
    said = refused(tmp_path / "half", tmp_path / "out.onnx")
    assert "cannot load this SavedModel (" in said
    assert "save it as .keras or .h5, or convert the .tflite of the same model" in said


def test_outputs_come_in_the_order_of_their_numbers() -> None:
    names = ["output_10", "output_2", "boxes", "output_0"]
    assert in_order(names) == ["boxes", "output_0", "output_2", "output_10"]


@needs_tf
def test_a_layer_with_code_is_refused_and_runs_nothing(models: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"lambda\.keras: has a Lambda, which is code to run"):
        check_config(models / "lambda.keras")
    assert "which is code to run" in refused(models / "lambda.h5", tmp_path / "out.onnx")
    assert not (models / "ran").exists()
    in_own_process(LOAD_UNSAFE, models / "lambda.h5")  # the attack is real: without the refusal it runs
    assert (models / "ran").exists()
    (models / "ran").unlink()


def rewritten(source: Path, out: Path, change: Callable[[dict], object]) -> Path:
    """A copy of a model's file with its config changed."""
    if source.suffix == ".keras":
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                if name == "config.json":
                    change(config := json.loads(content))
                    content = json.dumps(config).encode()
                new.writestr(name, content)
        return out
    import h5py

    shutil.copyfile(source, out)
    with h5py.File(out, "r+") as file:
        change(config := json.loads(file.attrs["model_config"]))
        file.attrs["model_config"] = json.dumps(config)
    return out


def layers_of(config: dict, kind: str) -> list[dict]:
    return [layer["config"] for layer in config["config"]["layers"] if layer["class_name"] == kind]


@needs_tf
def test_what_keras_2_wrote_of_a_layer_that_has_no_choice_is_left_out(models: Path, tmp_path: Path) -> None:
    def older(config: dict) -> None:
        for kind in ("DepthwiseConv2D", "Conv2DTranspose"):
            layers_of(config, kind)[0]["groups"] = 1

    old = rewritten(models / "old.h5", tmp_path / "old.h5", older)
    before = old.read_bytes()
    assert "same top-1 on 100.0%" in to_onnx(old, tmp_path / "out.onnx")
    assert old.read_bytes() == before
    other = {"class_name": "DepthwiseConv2D", "config": {"groups": 2}}
    assert not keras_file._mend(other), "another value means something, and is Keras's to refuse"
    assert other["config"] == {"groups": 2}


@needs_tf
def test_a_class_from_elsewhere_is_refused(models: Path, tmp_path: Path) -> None:
    def foreign(config: dict) -> None:
        config["config"]["layers"][1] |= {"module": "os", "class_name": "system"}

    with pytest.raises(BadModel, match=r"evil\.keras: names os\.system"):
        check_config(rewritten(models / "plain.keras", tmp_path / "evil.keras", foreign))

    def function(config: dict) -> None:
        config["config"]["layers"][1] = {"module": "keras.config", "class_name": "function", "config": "anything"}

    with pytest.raises(BadModel, match=r"evil\.keras: has a function, which is code"):
        check_config(rewritten(models / "plain.keras", tmp_path / "evil.keras", function))


@needs_tf
def test_weights_that_are_not_in_the_file_are_refused(models: Path, tmp_path: Path) -> None:
    """Declared and not there, or in another file: a few bytes that take the memory, or read what is not the model's."""
    import h5py

    source = h5py.VirtualSource("secret.h5", "x", shape=(4,))
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = source
    attacks: dict[str, tuple[Callable[[h5py.File], object], str]] = {
        "declared": (lambda file: file.create_dataset("w", (1 << 40,), "f4", chunks=(1024,)), "declares 4,398,"),
        "linked": (
            lambda file: file.__setitem__("w", h5py.ExternalLink("secret.h5", "x")),
            "'w' is a link to elsewhere",
        ),
        "external": (lambda file: file.create_dataset("w", (4,), "f4", external="secret.bin"), "lies in another file"),
        "virtual": (lambda file: file.create_virtual_dataset("w", layout), "lies in another file"),
    }
    for name, (attack, said) in attacks.items():
        evil = Path(shutil.copy(models / "plain.h5", tmp_path / f"{name}.h5"))
        with h5py.File(evil, "r+") as file:
            attack(file)
        with pytest.raises(BadModel, match=f"{name}.h5: .*{said}"):
            check_config(evil)
        # the same inside a .keras
        packed = tmp_path / f"{name}.keras"
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.write(evil, "model.weights.h5")
        with pytest.raises(BadModel, match=f"{name}.keras: .*{said}"):
            check_config(packed)


@needs_tf
def test_a_file_that_unfolds_to_more_than_it_is_is_refused(models: Path, tmp_path: Path) -> None:
    import h5py

    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("assets/zeros", bytes(80 << 20))
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(BadModel, match=r"bomb\.keras: unfolds to 83,8.* bytes"):
        check_config(bomb)
    wide = Path(shutil.copy(models / "plain.h5", tmp_path / "wide.h5"))
    with h5py.File(wide, "r+") as file:
        del file.attrs["model_config"]
        file.attrs.create("model_config", ["{}"] * 3, dtype=h5py.string_dtype())
    with pytest.raises(BadModel, match="its model_config is no text"):
        check_config(wide)


@needs_tf
@pytest.mark.parametrize("name", ["text.h5", "text.keras", "half.h5", "half.keras", "absent.h5"])
def test_what_is_not_a_keras_model_is_refused(models: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("half"):
        whole = (models / f"plain{path.suffix}").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif not name.startswith("absent"):
        path.write_text("not a model")
    with pytest.raises(BadModel, match=f"{name}: not a whole Keras model") as caught:
        check_config(path)
    assert "\n" not in str(caught.value)


@needs_tf
def test_what_is_not_tflite_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.tflite").write_text("not a model")
    assert "text.tflite: is not a whole TFLite model" in refused(tmp_path / "text.tflite", tmp_path / "out.onnx")


def test_what_has_no_converter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    for name, said in (("model.bin", "suffix '.bin'"), ("absent.h5", "no such file"), (".", "but should be .h5")):
        assert not is_model(tmp_path / name)
        assert said in refused(tmp_path / name, tmp_path / "out.onnx")


@needs_tf
def test_a_wrong_conversion_is_not_written(models: Path, tmp_path: Path) -> None:
    code = (
        "from ptq.models import convert, parity, tensorflow_process; parity.TOLERANCE = -1;"
        "tensorflow_process.answer(convert._work)"
    )
    out = tmp_path / "out.onnx"
    job = {"source": str(models / "plain.h5"), "out": str(out)}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(job), "600"], capture_output=True, text=True, check=False
    )
    assert "plain.h5: ONNX and Keras differ by" in json.loads(done.stdout.splitlines()[-1])["error"]
    assert not out.exists()


def test_without_the_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.h5"
    path.write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        NotInstalled, match=r"^model\.h5: .*tensorflow and tf2onnx not installed: pip install 'ptq\[tf\]'"
    ):
        to_onnx(path, tmp_path / "out.onnx")


@needs_tf
@pytest.mark.skipif(not os.environ.get("PTQ_DATA"), reason="PTQ_DATA is not set")
@pytest.mark.parametrize("name", ["pretrainedResnet.h5", "vww_96.h5", "kws_ref_model_float32.tflite"])
def test_a_reference_model_keeps_its_accuracy(tmp_path: Path, name: str) -> None:
    """MLPerf Tiny's own files, of three ages."""
    root = Path(os.environ["PTQ_DATA"])
    if not (root / "models" / name).is_file():
        pytest.skip(f"no models/{name} in PTQ_DATA")
    to_onnx(root / "models" / name, tmp_path / "out.onnx")
    if name == "vww_96.h5":
        return  # its images are judged elsewhere
    if name == "pretrainedResnet.h5":
        images = cifar10.read(root, "test")
        inputs, labels, least = images.inputs, images.labels, 0.86
    else:
        with np.load(root / "kws01" / "kws01.npz", allow_pickle=False) as file:
            inputs, labels, least = file["inputs"], file["labels"], 0.89
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    outputs = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    assert (outputs.argmax(axis=1) == labels).mean() > least
