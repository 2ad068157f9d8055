"""InputContract: what a model must not be fed, and the cause it names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ptq.data.contract import ContractBroken, InputContract

CIFAR = InputContract((None, 4, 6, 3), "NHWC", low=0, high=255, channel_mean=(125.3, 122.95, 113.87))
YOLO = InputContract((1, 3, 4, 6), "NCHW", low=0, high=1)


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.just(4), st.just(6), st.just(3)),
        elements=st.floats(0, 255, width=32),
    )
)
def test_what_fits_passes(batch: np.ndarray) -> None:
    CIFAR.check(batch)


@pytest.mark.parametrize(
    ("contract", "batch", "message"),
    [
        (CIFAR, np.zeros((2, 4, 6, 3), np.uint8), r"batch.dtype=uint8, but should be float32"),
        (CIFAR, np.zeros((2, 3, 4, 6), np.float32), r"batch.shape=\(2, 3, 4, 6\).*likely cause: NCHW where NHWC"),
        (YOLO, np.zeros((1, 4, 6, 3), np.float32), r"likely cause: NHWC where NCHW"),
        (CIFAR, np.zeros((4, 6, 3), np.float32), r"without a batch dimension"),
        (CIFAR, np.zeros((0, 4, 6, 3), np.float32), r"holds nothing"),
        (CIFAR, np.full((2, 4, 6, 3), -1.5, np.float32), r"batch\[0\]\[0, 0, 0\]=-1.5.*normalised to zero mean"),
        (YOLO, np.full((1, 3, 4, 6), 200, np.float32), r"should be in \[0, 1\]; likely cause: not divided by 255"),
    ],
)
def test_what_does_not_fit_is_named_with_its_cause(contract: InputContract, batch: np.ndarray, message: str) -> None:
    with pytest.raises(ContractBroken, match=message):
        contract.check(batch)


@given(
    st.integers(0, 1),
    st.integers(0, 3),
    st.integers(0, 5),
    st.integers(0, 2),
    st.sampled_from([np.nan, np.inf, 255.5, -0.1]),
)
def test_the_index_of_the_bad_value_is_named(n: int, h: int, w: int, c: int, value: float) -> None:
    batch = np.full((2, 4, 6, 3), 9, np.float32)
    batch[n, h, w, c] = value
    with pytest.raises(ContractBroken, match=rf"batch\[{n}\]\[{h}, {w}, {c}\]="):
        CIFAR.check(batch)


def test_a_data_set_divided_by_255_is_named() -> None:
    with pytest.raises(ContractBroken, match=r"max=1 over all samples.*divided by 255"):
        CIFAR.check_whole(0, 1, np.array([0.49, 0.48, 0.45]))


def test_swapped_channels_are_named() -> None:
    CIFAR.check_whole(0, 255, np.array([126.0, 121.0, 113.0]))
    with pytest.raises(ContractBroken, match="BGR where RGB should be"):
        CIFAR.check_whole(0, 255, np.array([113.0, 121.0, 126.0]))
