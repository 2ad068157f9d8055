"""The digits reader: 1,797 real images at the input contract of the CIFAR-10 models."""

import builtins

import numpy as np
import pytest

from ptq.data import digits
from ptq.data.sampling import assert_disjoint, calibration_samples, evaluation_samples
from ptq.errors import NotInstalled


def test_enlarge_is_bilinear_with_aligned_centres():
    gray = np.zeros((1, 8, 8))
    gray[0, 0, 0], gray[0, 0, 1] = 16, 8
    large = digits.enlarge(gray)[0, :, :, 0]
    # Along row 0: flat to the first centre, then from 16 to 8 in eighths of the way, at 255 / 16 a unit.
    steps = [16, 16, 15, 13, 11, 9, 7, 5, 3, 1]
    assert large[0, :10].tolist() == [round(each * 255 / 16) for each in steps]
    assert large[0, 10:].max() == 0
    assert np.array_equal(digits.enlarge(gray.transpose(0, 2, 1))[0, :, :, 0], large.T)


def test_enlarge_keeps_flat_images_flat():
    values = np.arange(17.0)
    large = digits.enlarge(np.broadcast_to(values[:, None, None], (17, 8, 8)))
    assert large.shape == (17, 32, 32, 3)
    assert large.dtype == np.uint8
    assert [set(each.ravel().tolist()) for each in large] == [{round(v * 255 / 16)} for v in values]


def test_splits():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    train, test = digits.read("train"), digits.read("test")
    assert (len(train), len(test)) == (1197, 600)
    assert np.bincount(test.labels).tolist() == [60] * 10
    assert np.bincount(train.labels).min() == 114
    for images in (train, test):
        assert images.inputs.shape == (len(images), 32, 32, 3)
        assert images.inputs.dtype == np.float32
        assert (images.pixels.min(), images.pixels.max()) == (0, 255)
        assert np.array_equal(images.pixels[..., 0], images.pixels[..., 2])
    assert_disjoint(evaluation_samples(train), evaluation_samples(test))
    assert np.array_equal(digits.read("test").pixels, test.pixels)


def test_bytes_are_the_same_on_every_machine():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    assert (
        evaluation_samples(digits.read("test")).digest
        == "8cb6ee1b7fabbc70efaa117d0ed16f3da78701d6f1d4f85e413e0388fbca710c"
    )
    assert (
        calibration_samples(digits.read("train")).digest
        == "206fd002a5f4014a05c7846c10249959c982fe3a6f35e6a525bae0df4130d81c"
    )


def test_without_scikit_learn(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NotInstalled, match=r"pip install 'ptq\[suite\]'"):
        digits.read("test")
