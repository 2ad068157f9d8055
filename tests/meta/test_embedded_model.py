"""The embedded model is what it says: ResNet8 on digits, as its training script leaves it."""

import inspect
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from ptq.data import digits
from ptq.data.sampling import calibration_samples
from ptq.models.convert import missing
from ptq.workloads.digits import MODEL

SCRIPT = Path(__file__).parents[1] / "tools" / "train_digits.py"
sys.path.append(str(SCRIPT.parent))

import train_digits  # noqa: E402


def test_it_is_an_unprepared_resnet8():
    model = onnx.load(MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert 300_000 < MODEL.stat().st_size < 350_000
    shape = model.graph.input[0].type.tensor_type.shape
    assert [each.dim_param or each.dim_value for each in shape.dim] == ["N", 32, 32, 3]
    kinds = Counter(node.op_type for node in model.graph.node)
    assert (kinds["Conv"], kinds["Mul"], kinds["Relu"], kinds["MatMul"]) == (9, 7, 7, 1)  # nothing fused yet
    assert model.opset_import[0].version >= 13
    origin = {each.key: each.value for each in model.metadata_props}
    assert "train_digits" in origin["command"]  # the file was made when the script lay elsewhere
    assert origin["seed"] == str(train_digits.SEED)
    assert origin["epochs"] == str(train_digits.EPOCHS)


def test_it_reads_digits():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    test = digits.read("test")
    assert train_digits.accuracy(MODEL.read_bytes(), test) >= 0.98 * len(test)


def test_it_depends_on_its_input_contract():
    """Divided by 255 it fails: the model is a real judge of preprocessing."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    test = digits.read("test")
    dark = type(test)((test.pixels / 255).astype(np.uint8), test.labels, test.class_names, test.name)
    assert train_digits.accuracy(MODEL.read_bytes(), dark) < 0.5 * len(test)


def test_calibration_fits_the_train_split():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    assert len(calibration_samples(digits.read("train"))) == 1000


def test_augmentation_shifts_and_dims_with_its_own_generator():
    pixels = np.zeros((50, 32, 32, 3), np.uint8)
    pixels[:, 16, 16] = 200
    made = train_digits.augmented(pixels, np.random.default_rng(1))
    assert made.dtype == np.float32
    assert np.array_equal(made, train_digits.augmented(pixels, np.random.default_rng(1)))
    lit = np.argwhere(made[..., 0] > 0)
    assert len(lit) == 50
    assert np.abs(lit[:, 1:] - 16).max() == train_digits.SHIFT
    assert 0.7 * 200 <= made.max(axis=(1, 2, 3)).min() < made.max() <= 200


@pytest.mark.skipif(missing() is not None, reason=f"{missing()}")
def test_the_script_trains_what_is_committed():
    """Same topology and parameter count, without the minutes of training."""
    done = subprocess.run(
        [sys.executable, "-c", "from train_digits import resnet8; print(resnet8().count_params())"],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(SCRIPT.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.split()[-1]) == 78_666
    assert "78,666" in inspect.getdoc(train_digits.resnet8)
    weights = sum(int(np.prod(each.dims)) for each in onnx.load(MODEL).graph.initializer)
    assert abs(weights - 78_666) < 500  # BatchNormalization's four vectors have become two
