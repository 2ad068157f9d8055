"""Keras to ONNX: faithful, byte-reproducible, and never a way to run code."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from ptq.datasets import cifar10
from ptq.errors import BadModel, NotInstalled
from ptq.models import conversion
from ptq.models.conversion import Parity, convert, converted
from ptq.store import Store

needs_tf = pytest.mark.skipif(conversion.missing() is not None, reason=f"{conversion.missing()}")

# Makes the models in a process of its own, so that TensorFlow never enters this one.
MAKE = """
import sys, keras
from pathlib import Path
from keras import Model, layers
root, proof = Path(sys.argv[1]), sys.argv[2]
keras.utils.set_random_seed(1)

def model(*more, tail=()):
    image = layers.Input((8, 8, 3), name="image")
    x = image
    for layer in (*more, layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten()):
        x = layer(x)
    return Model(image, layers.Dense(3, activation="softmax")(x))

model().save(root / "plain.keras")
model().save(root / "plain.h5")
touch = eval("lambda x: (__import__('pathlib').Path(%r).touch(), x)[1]" % proof)
model(layers.Lambda(touch)).save(root / "lambda.keras")
model(layers.Lambda(touch)).save(root / "lambda.h5")
free = layers.Input((None, None, 3))
Model(free, layers.Conv2D(2, 3)(free)).save(root / "free_size.keras")
"""
LOAD_UNSAFE = "import sys, keras; keras.models.load_model(sys.argv[1], compile=False, safe_mode=False)"


def in_own_process(code: str, *arguments) -> None:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    in_own_process(MAKE, folder, folder / "ran")
    (folder / "ran").unlink(missing_ok=True)  # building a Lambda layer calls it once
    return folder


def refused(source: Path, out: Path) -> str:
    with pytest.raises(BadModel) as caught:
        convert(source, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    return str(caught.value)


@needs_tf
def test_converts_and_keeps_the_layout(models, tmp_path, capfd):
    out = tmp_path / "out.onnx"
    parity = convert(models / "plain.keras", out)
    assert capfd.readouterr() == ("", "")
    assert parity.n == 64
    assert parity.agreement == 1
    assert 0 <= parity.max_abs < 1e-5
    model = onnx.load(out)
    (given,) = model.graph.input
    assert given.name == "image"
    assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [each.dim_param or each.dim_value for each in given.type.tensor_type.shape.dim] == ["N", 8, 8, 3]
    session = onnxruntime.InferenceSession(out)
    for n in (1, 5):
        assert session.run(None, {"image": np.zeros((n, 8, 8, 3), np.float32)})[0].shape == (n, 3)


@needs_tf
def test_a_store_converts_once_and_another_process_makes_the_same_bytes(models, tmp_path, monkeypatch):
    path = converted(models / "plain.h5", Store(tmp_path))
    assert "same top-1 on 100.0%" in path.with_name(f"{path.stem}.made.json").read_text()
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    convert(models / "plain.h5", tmp_path / "again.onnx")
    assert path.read_bytes() == (tmp_path / "again.onnx").read_bytes()
    monkeypatch.setattr(conversion, "convert", lambda *_: pytest.fail("converted again"))
    assert converted(models / "plain.h5", Store(tmp_path)) == path


@given(st.randoms(use_true_random=False))
def test_names_and_order_come_from_the_structure_alone(random):
    """What tf2onnx leaves to chance: its own numbers, which of two equal constants stays, the order of nodes."""
    numbers = iter(random.sample(range(100), 9))
    slice_, cast, body = (f"{name}__{next(numbers)}" for name in ("Slice", "a/Shape", "body"))
    zero, end, fold, shared = (
        f"{random.choice(['starts', 'axes'])}__{next(numbers)}",
        f"ends__{next(numbers)}",
        f"const_fold_opt__{next(numbers)}",
        random.choice(["first/bias", "second/bias"]),
    )
    result = helper.make_tensor_value_info("in__3", onnx.TensorProto.INT64, [1])
    inner = helper.make_graph([helper.make_node("Add", ["a:0", "outer__5"], ["in__3"])], "then", [], [result])
    nodes = [
        helper.make_node("Slice", ["x", zero, end, zero], [f"{slice_}:0"], name=slice_),
        helper.make_node("Add", [f"{slice_}:0", shared], ["a:0"], name="a"),
        helper.make_node("Add", ["x", fold], ["outer__5"], name=cast),
        helper.make_node("If", ["condition"], ["b:0"], name=body, then_branch=inner, else_branch=inner),
        helper.make_node("Sum", ["b:0", shared, "a:0", ""], ["y"], name="sum"),
        helper.make_node("Neg", ["x"], ["dead"], name="dead"),
    ]
    weights = [
        numpy_helper.from_array(np.array([value]), name)
        for value, name in ((0, zero), (9, end), (3, fold), (2, shared), (True, "condition"), (7, "unread"))
    ]
    random.shuffle(nodes)
    random.shuffle(weights)
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1]) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", [value[0]], [value[1]], weights)
    conversion._canonical(graph)
    assert [node.name for node in graph.node] == ["Slice__4", "a", "Add__10", "If__13", "sum"]
    assert [list(node.input) for node in graph.node] == [
        ["x", "const__1", "const__2", "const__1"],
        ["Slice__3", "const__5"],
        ["x", "const__8"],
        ["condition"],
        ["b:0", "const__5", "a:0", ""],
    ]
    assert [(each.name, numpy_helper.to_array(each).item()) for each in graph.initializer] == [
        ("const__1", 0),
        ("const__2", 9),
        ("const__5", 2),
        ("const__8", 3),
        ("condition", True),
    ]


def test_names_left_out_and_names_that_are_taken() -> None:
    """An optional output nobody asked for is no producer; a made name is none that a branch reads."""
    weights = [numpy_helper.from_array(np.array([each], np.float32), f"const__{each}") for each in (77, 1)]
    result = helper.make_tensor_value_info("in", onnx.TensorProto.FLOAT, [1])
    inner = helper.make_graph([helper.make_node("Neg", ["const__1"], ["in"])], "then", [], [result])
    nodes = [
        helper.make_node("Add", ["x", "const__77"], ["s"]),
        helper.make_node("GRU", ["s", "w", "r", "", ""], ["", "h"], name="gru"),
        helper.make_node("If", ["condition"], ["b"], name="if", then_branch=inner, else_branch=inner),
        helper.make_node("Sum", ["h", "b"], ["y"], name="sum"),
    ]
    value = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "w", "r", "condition", "y")
    ]
    graph = helper.make_graph(nodes, "graph", value[:-1], value[-1:], weights)
    conversion._canonical(graph)
    assert [node.op_type for node in graph.node] == ["Add", "GRU", "If", "Sum"]
    assert sorted({each.name: numpy_helper.to_array(each).item() for each in graph.initializer}.values()) == [1, 77]
    assert next(each.name for each in graph.initializer if numpy_helper.to_array(each) == 1) == "const__1"


@needs_tf
def test_a_layer_with_code_is_refused_and_runs_nothing(models, tmp_path):
    for name in ("lambda.keras", "lambda.h5"):
        assert "which is code to run" in refused(models / name, tmp_path / "out.onnx")
        assert not (models / "ran").exists()
    in_own_process(LOAD_UNSAFE, models / "lambda.h5")  # the attack is real: without the refusal it runs
    assert (models / "ran").exists()
    (models / "ran").unlink()


def rewritten(source: Path, out: Path, change) -> Path:
    """A .keras file with its config changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, json.dumps(change(json.loads(content))) if name == "config.json" else content)
    return out


@needs_tf
def test_a_class_from_elsewhere_is_refused(models, tmp_path):
    def foreign(config):
        config["config"]["layers"][1] |= {"module": "os", "class_name": "system"}
        return config

    evil = rewritten(models / "plain.keras", tmp_path / "evil.keras", foreign)
    assert "names os.system" in refused(evil, tmp_path / "out.onnx")

    def function(config):
        config["config"]["layers"][1] = {"module": "keras.config", "class_name": "function", "config": "anything"}
        return config

    evil = rewritten(models / "plain.keras", tmp_path / "evil.keras", function)
    assert "has a function, which is code" in refused(evil, tmp_path / "out.onnx")


@needs_tf
def test_other_than_one_input_of_fixed_size_is_refused(models, tmp_path):
    assert "should be one of fixed size, float32" in refused(models / "free_size.keras", tmp_path / "out.onnx")


@needs_tf
@pytest.mark.parametrize("name", ["text.h5", "text.keras", "half.h5", "half.keras", "model.bin", "absent.h5"])
def test_what_is_not_a_model_is_refused(models, tmp_path, name):
    path = tmp_path / name
    if name.startswith("half"):
        whole = (models / f"plain{path.suffix}").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif not name.startswith("absent"):
        path.write_text("not a model")
    assert str(path) in refused(path, tmp_path / "out.onnx")


def test_parity_that_is_not_near_is_an_error():
    Parity(max_abs=9e-5, largest=1, agreement=1, n=64, low=0, high=255).check("good.h5")
    for far in (2e-4, float("nan")):
        with pytest.raises(BadModel, match=r"^bad\.h5: ONNX and Keras differ by .* likely cause"):
            Parity(max_abs=far, largest=1, agreement=1, n=64, low=0, high=255).check("bad.h5")


@needs_tf
def test_a_wrong_conversion_is_not_written(models, tmp_path):
    code = (
        "from ptq.models import conversion, tensorflow_process; conversion.TOLERANCE = 0;"
        "tensorflow_process.answer(conversion._work)"
    )
    out = tmp_path / "out.onnx"
    job = {"source": str(models / "plain.h5"), "out": str(out), "low": 0, "high": 255, "n": 8, "seed": 0}
    done = subprocess.run([sys.executable, "-c", code, json.dumps(job)], capture_output=True, text=True, check=False)
    assert "ONNX and Keras differ by" in json.loads(done.stdout.splitlines()[-1])["error"]
    assert not out.exists()


def test_without_the_extra_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "model.h5"
    path.write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        NotInstalled, match=r"^model\.h5: .*tensorflow and tf2onnx not installed: pip install 'ptq\[tf\]'"
    ):
        convert(path, tmp_path / "out.onnx")


@needs_tf
@pytest.mark.skipif(not os.environ.get("PTQ_DATA"), reason="PTQ_DATA is not set")
def test_the_reference_model_keeps_its_accuracy(tmp_path):
    root = Path(os.environ["PTQ_DATA"])
    source = root / "models" / "pretrainedResnet.h5"
    if not source.is_file():
        pytest.skip("no models/pretrainedResnet.h5 in PTQ_DATA")
    convert(source, tmp_path / "resnet8.onnx")
    images = cifar10.read(root, "test")
    session = onnxruntime.InferenceSession(tmp_path / "resnet8.onnx")
    outputs = session.run(None, {session.get_inputs()[0].name: images.inputs})[0]
    right = int((outputs.argmax(axis=1) == images.labels).sum())
    assert right / len(images) > 0.86
    if len(images) == 932:
        assert right == 818
