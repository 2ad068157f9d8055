"""Quantized: what `ptq.quantize` makes of a float model: a file, and how it was made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ptq.api.model_file import AnyPath, check_apart, converted, existing, name_of
from ptq.backends.protocol import Backend
from ptq.cases import NONE, Case
from ptq.data.images import Split
from ptq.data.inputs import is_object, read_inputs, samples_of
from ptq.data.pictures import ImageOptions
from ptq.data.samples import Samples
from ptq.data.signature import Signature
from ptq.engine.environment import instruction_sets
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import BadModel, PtqError, Unsupported, one_line
from ptq.files import write_bytes
from ptq.gate.bars import FAMILIES
from ptq.models.onnx_file import signature
from ptq.quantization.dtype import DTYPES
from ptq.quantization.exclude import mixed_joins

BEST: Mapping[str, Sequence[str]] = {
    "dtype": ("u8s8", "u8s7", "uint8", "int8"),
    "method": ("mse_gptq", "histogram", "mse", "percentile", "entropy", "minmax", "default"),
    "granularity": ("channel", "tensor"),
}
"""The best of a case's fields first, by what was measured, see the README; what is not named comes last, and so does a
dtype whose kernels saturate on this CPU."""

BEST_OF_FEW_BITS = ("mse_gptaq",)
"""Methods that come before those where weights or activations have less than 7 bits: on 2,243 training images that took
no part in calibration ResNet8 keeps 96.9 % of its decisions with u8s4, and 96.2 with mse_gptq; with u4s4_edge8 95.0 and
94.9, which is no difference."""


@dataclass(frozen=True)
class Quantized(os.PathLike[str]):
    """A quantized model: usable wherever a path is.

    `path` is the file, `case` how it was made, `notes` what its maker has to say, by topic.
    """

    path: Path
    case: Case
    notes: Mapping[str, str]

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return f"{self.path} ({self.case}, {self.path.stat().st_size:,} bytes)"


def quantize(
    model: AnyPath,
    calibration: Any,
    *,
    out: AnyPath | None = None,
    dtype: str | None = None,
    method: str | None = None,
    granularity: str | None = None,
    exclude: str | Iterable[str] = (),
    backend: str = "onnxruntime",
    images: ImageOptions | None = None,
    store: Store | None = None,
    registry: Registry | None = None,
    size_budget: float | None = None,
) -> Quantized:
    """Quantize a float model.

    Parameters
    ----------
    model: an .onnx, .h5, .keras or float .tflite file, or a SavedModel folder.
    calibration: typical inputs: an array (N, ...), a mapping of arrays by input name, batches, or a path; see
        `ptq.data.inputs.samples_of` and `read_inputs`. 100 to 1,000 samples do.
    out: the file to write, with the backend's suffix; None: a file in the store.
    dtype, method, granularity: the fields of the case; what is None is the best the backend has: with onnxruntime
        ``u8s8``, ``mse_gptq``, ``channel``; on an x86 CPU without VNNI, where u8s8 saturates, ``u8s7``, as fast as it.
    exclude: nodes to keep in float: names, patterns, or ``auto``, for detectors that join tensors of different scales.
    images: how images of a folder become inputs.
    store, registry: where what is made is kept, and the backends and methods there are.
    size_budget: the most bytes of the file, as a share of that of ``u8s8``: weights have 4 bits, or 8 in the layers
        where that gains most for its bytes, see `ptq.quantization.mixed`. In place of dtype, method and granularity.

    Raises a `PtqError` of one line, and writes nothing, for whatever is not as it should be.
    """
    path, registry = existing(model), registry or Registry()
    given = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    wanted = {"dtype": dtype, "method": method, "granularity": granularity}
    if size_budget is not None:
        from ptq.api.budget import within_budget

        if any(wanted.values()) or given or backend != "onnxruntime":
            raise PtqError(
                "a size budget chooses dtype, method and granularity itself, of onnxruntime, and excludes nothing"
            )
        return within_budget(path, calibration, size_budget, out, images=images, store=store, registry=registry)
    case = _case(name_of(path), registry, backend, wanted, "auto" if given else NONE)
    runtime = registry.backend(case)
    if out is not None:
        _check_output(Path(out), path, runtime, case)
    pipeline = calibrated(path, calibration, images=images, exclude=given, store=store, registry=registry)
    return written(pipeline, case, out)


def written(pipeline: Pipeline, case: Case, out: AnyPath | None) -> Quantized:
    """The case's artifact, copied to `out` where one is named, with what is to be said of it."""
    entry = pipeline.artifact(case)
    samples = pipeline.facts("calibration")
    drawn = "" if samples.seed is None else f", seed {samples.seed}"
    notes = {"samples": f"{samples.n}{drawn}, digest {samples.digest[:12]}", **entry.notes}
    notes |= _warnings(case, pipeline, [kind for kind, _ in entry.inputs])
    if out is None:
        return Quantized(entry.path, case, notes)
    try:
        write_bytes(Path(out), entry.path.read_bytes())
    except OSError as error:
        raise PtqError(f"{out}: cannot be written ({one_line(error.strerror or error)})") from error
    return Quantized(Path(out), case, notes)


def calibrated(
    model: Path,
    calibration: Any,
    *,
    images: ImageOptions | None = None,
    exclude: Sequence[str] = (),
    store: Store | None = None,
    registry: Registry | None = None,
) -> Pipeline:
    """The pipeline of a model and its calibration samples; there is nothing to evaluate on."""
    store, registry = store or Store(), registry or Registry()
    takes = signature(converted(model, store, registry))
    samples = inputs_of(calibration, takes, images, "train", "calibration")
    workload = Workload(name_of(model), model, samples, samples, exclude=tuple(exclude) or ("auto",))
    return Pipeline(workload, store, registry)


def inputs_of(value: Any, signature: Signature, images: ImageOptions | None, split: Split, name: str) -> Samples:
    """The samples that a path or a Python object stands for, held against the model's signature."""
    if isinstance(value, str | os.PathLike):
        spec = str(value) if is_object(value) else Path(value)
        return read_inputs(spec, images, signature, split)
    if images is not None:
        raise PtqError(f"{name}: options for images, but a {type(value).__name__} is no folder of images")
    return samples_of(value, signature, name)


def _warnings(case: Case, pipeline: Pipeline, passes: Sequence[str]) -> dict[str, str]:
    """What of a case's accuracy is known to be lost, and the remedy."""
    found = {}
    if saturates(case):
        found["this CPU"] = (
            f"has no VNNI: its kernels for {case.dtype} may saturate sums of 16 bits, so accuracy here can be far "
            "below that on a CPU which has; u8s7 does not saturate, and is as fast"
        )
    method = pipeline.registry.methods.get(case.method)
    if method is not None and "statistics" in passes and case.exclude == NONE:
        light = pipeline.has_lighter_pass and not method.needs_histogram  # the pass that was made already
        seen = pipeline.extremes if light else pipeline.statistics
        with suppress(BadModel):  # a node without a name
            if joins := mixed_joins(pipeline.model.prepared, seen):
                found["mixed scales"] = (
                    f"{len(joins)} nodes join tensors of different scales ({joins[0].node}: {joins[0].factor:.0f}x), "
                    "whose smaller values are lost: exclude='auto' (--exclude auto) keeps them in float"
                )
    return found


def _case(name: str, registry: Registry, backend: str, wanted: Mapping[str, str | None], exclude: str) -> Case:
    """The best case of a backend that has the wanted fields."""
    if backend not in registry.backends:
        raise PtqError(f"backend {backend!r} is not known: it should be one of {', '.join(registry.backends)}")
    runtime = registry.backends[backend]
    listed = [case for case in runtime.cases(name, registry.methods) if not case.is_float and case.exclude == exclude]
    if not listed:
        raise Unsupported(f"{backend}: keeps no node in float on demand: leave exclude out, or use onnxruntime")
    fields = {field: value for field, value in wanted.items() if value is not None}
    # the grid lists the dtypes that are worth a row on every CPU, not all that can be
    others = [replace(case, dtype=fields.get("dtype", "u8s7")) for case in listed]
    listed += [case for case in others if case not in listed and _takes(runtime, case)]
    found = [case for case in listed if all(case.fields()[field] == value for field, value in fields.items())]
    if not found:
        near = sorted({f"{case.dtype}/{case.method}/{case.granularity}" for case in listed})
        raise PtqError(f"{backend} {'/'.join(fields.values())} is not a case: it should be one of {', '.join(near)}")
    possible = [case for case in found if runtime.unsupported(case) is None]
    if not possible:
        raise Unsupported(f"{found[0]}: {runtime.unsupported(found[0])}")
    return min(possible, key=_rank)


def _takes(backend: Backend, case: Case) -> bool:
    """Whether a backend makes a case that it does not list: one that refuses no dtype at all does not look at it."""
    return backend.unsupported(case) is None and backend.unsupported(replace(case, dtype="none")) is not None


def _rank(case: Case) -> tuple[Any, ...]:
    """The method first: a better one gains more than a dtype that does not saturate."""
    fields, dtype = case.fields(), DTYPES.get(case.dtype)
    few = dtype is not None and min(dtype.activation.bits, dtype.weight.bits) < 7
    order = {**BEST, "method": (*(BEST_OF_FEW_BITS if few else ()), *BEST["method"])}
    places = {
        field: (best.index(value) if (value := fields[field]) in best else len(best), value)
        for field, best in order.items()
    }
    return few, places["method"], saturates(case), places["dtype"], places["granularity"]


def saturates(case: Case) -> bool:
    """Whether this CPU adds up unsigned times signed bytes in 16 bits: x86 without VNNI does."""
    dtype, isa = DTYPES.get(case.dtype), set(instruction_sets())
    mixed = dtype is not None and (str(dtype.activation), str(dtype.weight)) == ("u8", "s8")
    return mixed and "avx2" in isa and not FAMILIES["vnni"] & isa


def _check_output(out: Path, model: Path, backend: Backend, case: Case) -> None:
    suffix = backend.suffix(case)
    if out.is_dir():
        raise PtqError(f"{out}: is a folder, but should be the file to write, ending in {suffix}")
    check_apart(out, model)
    if out.suffix != suffix and not (out.exists() and not out.is_file()):  # a device has no suffix
        raise PtqError(f"{out}: ends in {out.suffix!r}, but {backend.name} writes {suffix} files: name it so")
