"""Comparison: how long one model file takes against another, side by side, and what of each runs in integer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptq.api.model_file import AnyPath, ModelFile
from ptq.api.quantized import Quantized, inputs_of
from ptq.api.text import columns, printable
from ptq.backends.protocol import Census
from ptq.data.batch import Array, fitted
from ptq.data.pictures import ImageOptions
from ptq.data.samples import first_batch
from ptq.data.signature import Signature, Tensor
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.errors import BadData, PtqError
from ptq.gate.bars import Bar
from ptq.gate.verdict import Verdict, judge_ratio
from ptq.latency.race import THREADS, executed
from ptq.latency.ratio import SAME, Budget, Ratio, measure_ratio
from ptq.models.parity import check_size


@dataclass(frozen=True)
class Side:
    """One of the two: its file's `name` and `size_bytes`, its runtime, ms per call, and what its runtime executes."""

    name: str
    runtime: str
    size_bytes: int
    ms: float
    census: Census


@dataclass(frozen=True)
class Comparison:
    """Two models, `a` and `b`, timed in turns in this process on `batch` samples a call.

    `ratio` is time of b / time of a; `verdict` holds it against a bar.
    """

    a: Side
    b: Side
    batch: int
    ratio: Ratio
    verdict: Verdict

    def __str__(self) -> str:
        sides, ratio = (self.a, self.b), self.ratio
        weights = [
            ", ".join(f"{kind} {size:,}" for kind, size in sorted(side.census.weight_bytes.items())) for side in sides
        ]
        table = columns([
            ("", f"A: {self.a.name}", f"B: {self.b.name}"),
            ("runtime", *(side.runtime for side in sides)),
            ("size, bytes", *(f"{side.size_bytes:,}" for side in sides)),
            ("ms per call", *(f"{side.ms:.4g}" for side in sides)),
            ("executed", *(executed(side.census) for side in sides)),
            ("stray Q/DQ", *(side.census.stray for side in sides)),
            ("weights, bytes", *weights),
        ])  # fmt: skip
        return (
            f"{table}\nB is {ratio.speedup:.2f}x the speed of A ({1 / ratio.high:.2f} .. {1 / ratio.low:.2f})\n"
            f"{printable(f'{self.verdict.name}: {self.verdict.reason}')}"
        )


def compare(
    a: AnyPath,
    b: AnyPath,
    inputs: Any = None,
    *,
    batch: int = 1,
    max_ratio: float = SAME,
    seconds: float = 10.0,
    images: ImageOptions | None = None,
    store: Store | None = None,
    registry: Registry | None = None,
) -> Comparison:
    """Time model `b` against model `a` in turns, on one thread each, on the first `batch` of the inputs.

    Parameters
    ----------
    a, b: any two models or artifacts that take the same inputs, of any runtimes.
    inputs: as `quantize` takes them; None: random numbers, for models whose inputs vary in nothing but the batch.
    batch: samples a call, where the models leave it open.
    max_ratio: the largest time of b / time of a that passes.
    seconds: longest to measure.
    images: how images of a folder become inputs.
    store, registry: where what is made is kept, and the backends there are.

    Raises a `PtqError` of one line for whatever is not as it should be.
    """
    if not (math.isfinite(max_ratio) and math.isfinite(seconds) and max_ratio > 0 and seconds > 0 and batch > 0):
        raise PtqError(f"batch {batch}, max_ratio {max_ratio}, seconds {seconds}: should be finite numbers above 0")
    store, registry = store or Store(), registry or Registry()
    models = [
        ModelFile.open(model, store, registry, model.case.backend if isinstance(model, Quantized) else None)
        for model in (a, b)
    ]
    common = _common(*models)
    size = common.batch or batch
    check_size(common, size)
    fed = _random(common, size, models[0]) if inputs is None else _first(inputs, common, size, images)
    base, other = (model.backend.load(model.artifact.path, THREADS) for model in models)
    ratio = measure_ratio(base, other, fed, max_ratio, Budget(seconds=seconds))
    verdict = judge_ratio(f"B against A, batch {size}", ratio, Bar("*", "", max_ratio=max_ratio))
    left, right = (
        Side(model.path.name, model.backend.name, model.artifact.size, ms, model.census)
        for model, ms in zip(models, (ratio.reference_ms, ratio.other_ms), strict=True)
    )
    return Comparison(left, right, size, ratio, verdict)


def _common(a: ModelFile, b: ModelFile) -> Signature:
    """What both take, by the names of `a`; `BadData` when there is nothing both take."""
    ours, theirs = a.signature, b.signature
    named = {tensor.name: tensor for tensor in theirs.inputs}
    pairs = [(tensor, named.get(tensor.name)) for tensor in ours.inputs]
    if len(ours.inputs) == len(theirs.inputs) == 1:
        pairs = [(ours.inputs[0], theirs.inputs[0])]
    merged = [_merged(tensor, other) for tensor, other in pairs]
    if len(ours.inputs) != len(theirs.inputs) or None in merged:
        takes = [", ".join(map(str, signature.inputs)) for signature in (ours, theirs)]
        raise BadData(f"{a.path.name} takes {takes[0]}, {b.path.name} {takes[1]}, but both should take the same")
    return Signature(tuple(tensor for tensor in merged if tensor is not None), ours.outputs)


def _merged(a: Tensor, b: Tensor | None) -> Tensor | None:
    fits = b is not None and a.dtype == b.dtype and len(a.shape) == len(b.shape)
    if b is None or not fits or any(x and y and x != y for x, y in zip(a.shape, b.shape, strict=True)):
        return None
    return Tensor(a.name, tuple(x or y for x, y in zip(a.shape, b.shape, strict=True)), a.dtype)


def _random(common: Signature, size: int, model: ModelFile) -> dict[str, Array]:
    """Uniform in 0..1 where the model takes floats, else ones: what a kernel takes hardly depends on the values."""
    generator, found = np.random.default_rng(0), {}
    for tensor in common.inputs:
        sides = tensor.shape[1:]
        if not tensor.shape or None in sides:
            raise BadData(
                f"{model.path.name}: input {tensor} varies beyond the batch, so it cannot be made up: give inputs "
                "(--data)"
            )
        shape = (size, *(side for side in sides if side is not None))
        floats = np.dtype(tensor.dtype).kind == "f"
        found[tensor.name] = (generator.uniform(0, 1, shape) if floats else np.ones(shape)).astype(tensor.dtype)
    return found


def _first(inputs: Any, common: Signature, size: int, images: ImageOptions | None) -> dict[str, Array]:
    """The first `size` inputs, the same ones again where there are fewer."""
    samples = inputs_of(inputs, common, images, "test", "inputs")
    batch = fitted(first_batch(samples, size), common, "inputs")
    return {name: np.ascontiguousarray(np.resize(values, (size, *values.shape[1:]))) for name, values in batch.items()}
