"""quantize_all: one model quantized in several ways, on any executor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptq.api.model_file import AnyPath, existing, name_of
from ptq.api.quantized import Quantized, quantize
from ptq.cases import NONE, Case
from ptq.data.pictures import ImageOptions
from ptq.data.samples import ArraySamples
from ptq.engine.registry import Registry
from ptq.engine.remote import Remote
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import PtqError, Unsupported
from ptq.gate.graph import tasks

Some = str | Iterable[str] | None


@dataclass(frozen=True)
class _Job:
    """What a worker needs to know, beside the case: paths and plain values."""

    model: Path
    calibration: Any
    out: Path | None
    backend: str
    exclude: tuple[str, ...]
    images: ImageOptions | None
    cache: Path
    remote: str | None


def quantize_all(
    model: AnyPath,
    calibration: Any,
    *,
    out: AnyPath | None = None,
    dtype: Some = None,
    method: Some = None,
    granularity: Some = None,
    exclude: str | Iterable[str] = (),
    backend: str = "onnxruntime",
    images: ImageOptions | None = None,
    executor: Executor | None = None,
    store: Store | None = None,
) -> list[Quantized]:
    """Quantize a float model in every way that is asked for.

    Parameters
    ----------
    model, calibration, exclude, backend, images: as `ptq.quantize` takes them.
    out: the folder for the files, each named by its case; None: files in the store.
    dtype, method, granularity: those wanted, one or several; None: all the backend has.
    executor: what runs them, any `concurrent.futures.Executor`: threads, processes, Dask's ``client.get_executor()``,
        Ray's. Arguments are pickled where it pickles: give paths then. None: one after the other.
    store: where what is made is kept; other machines find it by its remote alone.

    What the backend cannot do is left out. Of those that calibrate by the same passes one goes first, so that no pass
    is made twice. The result is in the order of the backend's cases. Raises as `ptq.quantize` does, and `Unsupported`
    where nothing can be made.
    """
    path, registry, store = existing(model), Registry(), store or Store()
    if backend not in registry.backends:
        raise PtqError(f"backend {backend!r} is not known: it should be one of {', '.join(registry.backends)}")
    given = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    wanted = {"dtype": _some(dtype), "method": _some(method), "granularity": _some(granularity)}
    cases = _cases(name_of(path), registry, backend, wanted, "auto" if given else NONE)
    job = _Job(
        path, calibration, None if out is None else Path(out), backend, given, images, store.root,
        None if store.remote is None else store.remote.url,
    )  # fmt: skip
    if job.out is not None:
        job.out.mkdir(parents=True, exist_ok=True)
    if executor is None:
        return [_one(job, case) for case in cases]
    by_id = {case.id: case for case in cases}
    nothing = ArraySamples(np.zeros(1))
    workload = Workload(name_of(path), path, nothing, nothing)
    todo = [task for task in tasks(cases, {workload.name: workload}, registry) if task.case in by_id]
    needed = {name for task in todo for name in task.needs}
    made: dict[str, Quantized] = {}
    for wave in ([t for t in todo if t.case in needed], [t for t in todo if t.case not in needed]):
        futures = {task.case: executor.submit(_one, job, by_id[task.case]) for task in wave}
        made |= {case: future.result() for case, future in futures.items()}
    return [made[case.id] for case in cases]


def _cases(
    name: str, registry: Registry, backend: str, wanted: Mapping[str, tuple[str, ...]], exclude: str
) -> list[Case]:
    runtime = registry.backends[backend]
    listed = [case for case in runtime.cases(name, registry.methods) if not case.is_float and case.exclude == exclude]
    for field, values in wanted.items():
        known = {case.fields()[field] for case in listed}
        if unknown := set(values) - known:
            raise PtqError(f"{field} {min(unknown)!r}: {backend} has {', '.join(sorted(known))}")
    found = [case for case in listed if all(not some or case.fields()[field] in some for field, some in wanted.items())]
    possible = [case for case in found if runtime.unsupported(case) is None]
    if not possible:
        raise Unsupported(f"{backend}: none of {len(found)} cases that were asked for can be made")
    return possible


def _one(job: _Job, case: Case) -> Quantized:
    """One case, perhaps in another process or on another machine."""
    registry = Registry()
    store = Store(job.cache, remote=None if job.remote is None else Remote(job.remote))
    suffix = registry.backends[job.backend].suffix(case)
    out = None if job.out is None else job.out / f"{case.id}{suffix}"
    return quantize(
        job.model, job.calibration, out=out, dtype=case.dtype, method=case.method, granularity=case.granularity,
        exclude=job.exclude, backend=job.backend, images=job.images, store=store, registry=registry,
    )  # fmt: skip


def _some(values: Some) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values or ())
