"""What both PyTorch backends share in running: threads, batches, warnings; torch's settings are global and restored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ptq.backends.batching import in_batches
from ptq.backends.protocol import Predictor
from ptq.errors import NotInstalled
from ptq.samples import Float32

if TYPE_CHECKING:
    import onnx


def absent(*packages: str) -> str | None:
    """None when every package can be imported, else what to install."""
    if all(find_spec(each) is not None for each in packages):
        return None
    return "not installed: pip install 'ptq[torch]'"


def require(name: str, reason: str | None) -> None:
    """Raise `NotInstalled` when there is a reason."""
    if reason is not None:
        raise NotInstalled(f"{name}: {reason}")


def installed(*packages: str) -> dict[str, str]:
    """Versions by distribution name, without importing any; ``absent`` for one that is not there."""
    found = {}
    for each in packages:
        try:
            found[each] = version(each)
        except PackageNotFoundError:
            found[each] = "absent"
    return found


@contextmanager
def running(threads: int, engine: str | None = None) -> Iterator[None]:
    """Run torch without gradients on `threads` threads and, for packing weights, on a quantized engine.

    Thread count and engine belong to the process, so both are put back: other libraries' work is not changed.
    """
    import torch

    before, packing = torch.get_num_threads(), torch.backends.quantized.engine
    torch.set_num_threads(threads)
    if engine is not None:
        torch.backends.quantized.engine = engine
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)
        if engine is not None:
            torch.backends.quantized.engine = packing


def predictor(module: Callable[[Any], Any], size: int | None, threads: int) -> Predictor:
    """A predictor that feeds `size` samples at a time, None for all at once."""

    def run(batch: Float32) -> Float32:
        import torch

        said = module(torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32)))
        first = said[0] if isinstance(said, tuple | list) else said
        return np.asarray(first.numpy(), dtype=np.float32)

    whole = run if size is None else in_batches(run, size)

    def predict(batch: Float32) -> Float32:
        with running(threads):
            return whole(batch)

    return predict


@contextmanager
def deprecations(said: list[str] | None = None) -> Iterator[None]:
    """Catch deprecation warnings of the calls inside; their first sentences go to `said`, other warnings on their way.

    torch gives some once a process: with `said`, every time, so that a note does not depend on what ran before;
    without, that once is spent here.
    """
    import torch

    before = torch.is_warn_always_enabled()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.set_warn_always(before or said is not None)
        try:
            yield
        finally:
            torch.set_warn_always(before)
    for each in seen:
        # torch announces some with UserWarning.
        if "deprecated" not in str(each.message):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        elif said is not None:
            sentence = " ".join(str(each.message).split()).split(". ")[0].rstrip(".")
            said.extend([] if sentence in said else [sentence])


def batch_of(model: onnx.ModelProto) -> int | None:
    """The fixed batch size of an ONNX model's input, None when it varies."""
    size = entry(model).type.tensor_type.shape.dim[0].dim_value
    return int(size) if size > 0 else None


def shape_of(model: onnx.ModelProto) -> tuple[int | None, ...]:
    """The shape of an ONNX model's input, None for a dimension that varies."""
    return tuple(int(each.dim_value) or None for each in entry(model).type.tensor_type.shape.dim)


def entry(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The input of an ONNX model that is no constant."""
    constants = {each.name for each in model.graph.initializer}
    return next(each for each in model.graph.input if each.name not in constants)
