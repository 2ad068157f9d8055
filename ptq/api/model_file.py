"""ModelFile: a model as a file, with the runtime it is for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ptq.backends.protocol import Backend, Census
from ptq.cases import FP32, Case
from ptq.data.contract import InputContract
from ptq.data.samples import Samples
from ptq.data.signature import Signature
from ptq.engine.pipeline import BATCH, Pipeline
from ptq.engine.predictions import Count, Predict, read_predictions
from ptq.engine.registry import Registry
from ptq.engine.sample_set import SampleSet
from ptq.engine.store import Entry, Store
from ptq.engine.workload import Workload
from ptq.errors import BadModel, NoData, NotInstalled, PtqError
from ptq.files import file_digest
from ptq.metrics.metric import Metric, Predictions
from ptq.models.convert import is_model
from ptq.models.onnx_file import digest, files

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model file, what of it a runtime loads (of a Keras model or SavedModel: its ONNX form), and the runtime."""

    path: Path
    artifact: Entry
    backend: Backend
    store: Store

    @classmethod
    def open(cls, model: AnyPath, store: Store, registry: Registry, backend: str | None = None) -> ModelFile:
        """The file, for the backend called `backend`, else for the runtime whose artifacts have its suffix.

        Raises `NoData` when it is not there, `BadModel` when nothing runs it, `NotInstalled` without the framework.
        """
        path = existing(model)
        known = registry.backends
        if backend is not None and backend not in known:
            raise PtqError(f"backend {backend!r} is not known: it should be one of {', '.join(known)}")
        runtime = known[backend] if backend is not None else _runtime(path, registry)
        loaded = path
        if runtime is None and is_model(path):
            loaded = converted(path, store, registry)
            runtime = _runtime(loaded, registry)
        if runtime is None:
            raise BadModel(
                f"{path}: no backend runs a {path.suffix or 'suffixless'} file; convert it with `ptq convert`"
            )
        if (missing := runtime.missing()) is not None:
            raise NotInstalled(f"{path.name}: {missing}")
        content = digest(loaded) if loaded.suffix == ".onnx" else file_digest(loaded)
        return cls(path, Entry(loaded, content), runtime, store)

    @cached_property
    def signature(self) -> Signature:
        """What the model takes and returns."""
        return self.backend.signature(self.artifact.path)

    @cached_property
    def census(self) -> Census:
        """What the runtime executes for it."""
        entry = self.store.get(Count(self._case, self.backend, self.backend.versions(), self.artifact))
        return Census.from_json(json.loads(entry.path.read_text()))

    def predictions(self, samples: SampleSet, metric: Metric, signature: Signature) -> Predictions:
        """What it says of samples that are given to it as `signature` has them, as far as the metric keeps it."""
        step = Predict(
            case=self._case,
            backend=self.backend,
            versions=self.backend.versions(),
            artifact=self.artifact,
            samples=samples,
            signature=signature,
            contracts=contracts(signature),
            metric=metric,
            batch=signature.batch or BATCH,
        )
        return read_predictions(self.store.get(step).path)

    @property
    def _case(self) -> Case:
        return Case(name_of(self.path), self.backend.name, FP32)


def contracts(signature: Signature) -> Mapping[str, InputContract]:
    """What every input must be, by name, as far as the model says."""
    return {tensor.name: InputContract(tensor.shape, dtype=tensor.dtype) for tensor in signature.inputs}


def existing(model: AnyPath) -> Path:
    """The path of a model that is there; `NoData` when it is not."""
    path = Path(model)
    if not path.exists():
        raise NoData(f"{path}: no such file or folder, but should be a model")
    if not (path.is_file() or path.is_dir()):  # opening a pipe would wait for somebody to write to it
        raise BadModel(f"{path}: is a pipe or a device, but should be a model")
    if path.is_dir() and not is_model(path):
        raise BadModel(f"{path}: is a folder without a saved_model.pb, but should be a model")
    return path


def check_apart(out: Path, *given: Path) -> None:
    """Raise `PtqError` when `out` is one of the files `given`, under whatever name, or a file one of these reads."""
    for path in given if out.exists() else ():
        for file in files(path) if path.suffix == ".onnx" and path.is_file() else [path]:
            if file.exists() and out.samefile(file):
                raise PtqError(f"{out}: is {file} itself, but should be another file: it would be lost")


def converted(path: Path, store: Store, registry: Registry) -> Path:
    """The ONNX form of a float model, kept in the store; an .onnx file is its own."""
    return Pipeline(Workload(name_of(path), path, none, none), store, registry).source.onnx


def name_of(path: Path) -> str:
    """A model's name as the id of a case may have it."""
    return "".join(char if char.isalnum() and char.isascii() else "_" for char in path.stem.lower()) or "model"


def none() -> Samples:
    raise PtqError(
        "no calibration samples were given, but this method needs them: give --calibration, or choose --method "
        "dynamic, which ranges at run time"
    )


def _runtime(path: Path, registry: Registry) -> Backend | None:
    """The backend whose float case has the path's suffix."""
    for backend in registry.backends.values():
        own = Case("any", backend.name, FP32)
        if path.is_file() and own in backend.cases("any", registry.methods) and backend.suffix(own) == path.suffix:
            return backend
    return None
