"""Batch: the named inputs of one call of a model, or its named outputs. The first dimension is the sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.data.signature import Signature, Tensor
from ptq.errors import BadData

Array = npt.NDArray[Any]
Batch = Mapping[str, Array]
"""By tensor name, an array of shape (n, ...): any dtype, any rank, the same n in each."""

FINITE = 0.25
"""What stands for the infinity of a mask, as a share of the largest float: no range can hold an infinity, a Softmax
gives 0 for both, and masks are added up."""

UNNAMED = ""
"""The name of a bare array, until the model it is for is known."""


def size_of(batch: Batch) -> int:
    """How many samples a batch has."""
    return len(next(iter(batch.values())))


def only(batch: Batch) -> Array:
    """The array of a batch of one name; of several, the first: a model's first output."""
    return next(iter(batch.values()))


def joined(batches: list[dict[str, Array]]) -> dict[str, Array]:
    """Batches that follow one another as one; their shapes beside the first dimension are equal."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def as_batch(value: Array | Batch) -> Batch:
    """A mapping as it is; a bare array under `UNNAMED`."""
    return value if isinstance(value, Mapping) else {UNNAMED: np.asarray(value)}


def fitted(value: Array | Batch, signature: Signature, where: str) -> dict[str, Array]:
    """The batch as a model takes it: every input by its name, of its dtype, in the model's order.

    A bare array is given the name of a model's only input. Numbers are cast where no value changes its meaning:
    integers and other floats to a float input, integers to a wider integer; never a float to an integer input. An
    additive mask, which has nothing but 0 and -inf, becomes a finite one, see `FINITE`; another infinity stays.

    Raises `BadData`, which starts with `where`, for an input that is missing or unknown, a wrong rank or size, a
    dtype that cannot be cast, and inputs of different length.
    """
    batch = as_batch(value)
    names = [tensor.name for tensor in signature.inputs]
    if set(batch) == {UNNAMED}:
        if len(names) != 1:
            raise BadData(
                f"{where}: one array without a name, but the model has {len(names)} inputs: give a mapping (.npz) with "
                f"{', '.join(names)}"
            )
        batch = {names[0]: batch[UNNAMED]}
    if missing := [tensor for tensor in signature.inputs if tensor.name not in batch]:
        lacks = missing[0]
        rest = (
            f": give it; what is one number for all samples is said by a contract: ptq.InputContract({lacks.shape}, "
            f"dtype={lacks.dtype!r}, constant=...) in the conftest.py that `ptq init` writes"
        )
        raise BadData(
            f"{where}: no input {lacks.name!r} among {', '.join(map(repr, batch))}, but the model takes "
            f"{', '.join(map(str, signature.inputs))}{'' if set(batch) - set(names) else rest}"
        )
    if unknown := [name for name in batch if name not in names]:
        raise BadData(f"{where}: unknown input {unknown[0]!r}, but the model takes {', '.join(map(repr, names))}")
    found = {tensor.name: _cast(np.asarray(batch[tensor.name]), tensor, where) for tensor in signature.inputs}
    for tensor in signature.inputs if signature.batch is None else ():
        first = tensor.shape[0]
        if first is not None and first != len(found[tensor.name]):
            axis = tensor.shape.index(None) if None in tensor.shape else 1
            raise BadData(
                f"{where}: {len(found[tensor.name])} samples, but the model takes {tensor}: if its samples lie along "
                f"another dimension, its contract says so: ptq.InputContract({tensor.shape}, batch_axis={axis})"
            )
    sizes = {name: len(array) for name, array in found.items()}
    if len(set(sizes.values())) > 1:
        raise BadData(f"{where}: inputs of different length {sizes}, but should hold the same samples")
    return found


def _cast(array: Array, tensor: Tensor, where: str) -> Array:
    fits = array.ndim == len(tensor.shape) and all(
        want is None or have == want for have, want in zip(array.shape[1:], tensor.shape[1:], strict=True)
    )
    if not fits:
        cause = ""
        if not tensor.shape:
            cause = (
                f"; one number for all samples is said by a contract: ptq.InputContract((), dtype={tensor.dtype!r}, "
            )
            cause += "constant=...) in the conftest.py that `ptq init` writes, and left out of the samples"
        elif array.ndim == len(tensor.shape) - 1:
            cause = "; likely cause: one sample without a batch dimension, which ptq.read_inputs adds by its signature="
        elif array.ndim == 4 and sorted(array.shape[1:]) == sorted(size or 0 for size in tensor.shape[1:]):
            cause = "; likely cause: NHWC and NCHW swapped"
        raise BadData(f"{where}: shape {array.shape}, but the model takes {tensor}{cause}")
    want = np.dtype(tensor.dtype)
    lowest = array.min() if want.kind == array.dtype.kind == "f" and array.size else 0
    if np.isneginf(lowest) and ((array == lowest) | (array == 0)).all():
        array = np.maximum(array, float(np.finfo(want).min) * FINITE).astype(want)
    if array.dtype == want:
        return np.ascontiguousarray(array)
    safe = array.dtype.kind in "uifb" if want.kind == "f" else np.can_cast(array.dtype, want, "safe")
    if not safe and want.kind in "iu" and array.dtype.kind in "iu" and array.size:
        limits = np.iinfo(want)
        safe = bool(array.min() >= limits.min and array.max() <= limits.max)
    if not safe:
        raise BadData(f"{where}: dtype {array.dtype}, but the model takes {tensor}: cast it where it is read")
    return np.ascontiguousarray(array, dtype=want)
