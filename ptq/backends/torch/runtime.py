"""What both PyTorch backends share in running: threads, batches, warnings; torch's settings are global and restored."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ptq.backends.batching import in_batches
from ptq.backends.protocol import Predictor
from ptq.data.batch import Batch
from ptq.data.signature import Signature
from ptq.errors import BadModel, one_line
from ptq.models.session import feed


def missing(*packages: str) -> str | None:
    """None when torch, onnx2torch and `packages` can be imported, else one line that says what to install."""
    if all(importlib.util.find_spec(package) is not None for package in ("torch", "onnx2torch", *packages)):
        return None
    return "not installed: pip install 'ptq[torch]'"


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


def tensors(batch: Batch, signature: Signature) -> list[Any]:
    """A batch as torch tensors in the order of the model's inputs, of its dtypes."""
    import torch

    return [torch.from_numpy(np.require(batch[tensor.name], tensor.dtype, ["C", "W"])) for tensor in signature.inputs]


def predictor(module: Callable[..., Any], signature: Signature, size: int | None, threads: int, name: str) -> Predictor:
    """A predictor that feeds `size` samples at a time, None for all at once; `BadModel` names `name`."""

    def run(batch: Batch) -> Batch:
        said = module(*tensors(batch, signature))
        outputs = said if isinstance(said, tuple | list) else (said,)
        return {tensor.name: output.numpy() for tensor, output in zip(signature.outputs, outputs, strict=True)}

    whole, names = run if size is None else in_batches(run, size), [tensor.name for tensor in signature.inputs]

    def predict(batch: Batch) -> Batch:
        batch = feed(batch, names, name)
        try:
            with running(threads), warnings.catch_warnings():
                # torch warns of onnx2torch's code, in words of its own past: whether it still holds is parity's to say.
                warnings.filterwarnings("ignore", message=".*deprecated", category=UserWarning)
                return whole(batch)
        # torch raises RuntimeError, IndexError, TypeError, ...
        except Exception as error:
            kinds = (f"{one_line(repr(key), 60)} {array.dtype} {array.shape}" for key, array in batch.items())
            raise BadModel(f"{name}: {', '.join(kinds)} does not run ({one_line(error)})") from error

    return predict


@contextmanager
def deprecations(said: list[str] | None = None) -> Iterator[None]:
    """Catch deprecation warnings of the calls inside: first sentences go to `said`, other warnings on their way."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    for warning in seen:
        # torch announces some with UserWarning.
        if "deprecated" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif said is not None:
            sentence = " ".join(str(warning.message).split()).split(". ")[0].rstrip(".")
            said.extend([] if sentence in said else [sentence])


def quantized_tensors() -> None:
    """Have torch warn, here, that quantized tensors are deprecated.

    It does so once a process, and past Python, to stderr, when a kernel comes across them first. Here it is every time,
    so that a note does not depend on what ran before, and that once is spent.
    """
    import torch

    before = torch.is_warn_always_enabled()
    try:
        for always in (True, before):
            torch.set_warn_always(always)
            torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.quint8)
    finally:
        torch.set_warn_always(before)
