"""Digits: scikit-learn's 1,797 handwritten digits, brought to the input of a CIFAR-10 model; no download.

Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptq.data.images import Images, Split
from ptq.data.sampling import stratified
from ptq.errors import NotInstalled

NAMES = tuple(str(digit) for digit in range(10))
TEST_PER_CLASS = 60
SPLIT_SEED = 1998


def files() -> list[Path]:
    """The files `read` looks at, without importing scikit-learn; raises `NotInstalled` where it is absent."""
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise NotInstalled("digits: scikit-learn is not installed: pip install 'ptq[suite]'")
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    return [path] if path.is_file() else []


def read(split: Split) -> Images:
    """The images of a split: 1,197 for ``train`` (at least 114 a class), 600 for ``test`` (60 a class).

    Returns uint8 NHWC (N, 32, 32, 3), 0..255, three equal channels, in scikit-learn's order. Which images are tested
    is fixed: a stratified draw with a generator and seed of its own. Raises `NotInstalled` without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise NotInstalled("digits: scikit-learn is not installed: pip install 'ptq[suite]'") from error
    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    tested = np.zeros(len(labels), dtype=bool)
    tested[stratified(labels, TEST_PER_CLASS, SPLIT_SEED, classes=len(NAMES))] = True
    chosen = tested if split == "test" else ~tested
    return Images(enlarge(bunch.images[chosen]), labels[chosen], NAMES, f"digits {split}")


def enlarge(gray: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """(N, 8, 8) of whole numbers 0..16 as (N, 32, 32, 3) of 0..255: bilinear, pixel centres aligned, edges repeated.

    The weights are eighths, so every sum is exact in float64 and the bytes are the same on every machine.
    """
    centre = (np.arange(32) + 0.5) / 4 - 0.5
    below = np.floor(centre).astype(int)
    weights = np.zeros((32, 8))
    for offset, share in ((0, 1 - (centre - below)), (1, centre - below)):
        np.add.at(weights, (np.arange(32), np.clip(below + offset, 0, 7)), share)
    large = np.rint(weights @ gray @ weights.T * 255 / 16).astype(np.uint8)
    return np.repeat(large[..., np.newaxis], 3, axis=-1)
