"""What `ptq quantize` and `ptq evaluate` work on: a model file and a folder of CIFAR-10 batches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np

from ptq.backends.protocol import Backend
from ptq.calibration.sampling import calibration_samples
from ptq.cases import FP32, Case
from ptq.datasets.cifar10 import read
from ptq.errors import BadModel
from ptq.metrics.metric import Predictions
from ptq.models.conversion import converted
from ptq.models.keras_file import SUFFIXES
from ptq.pipeline import BATCH, backends
from ptq.samples import ArraySamples
from ptq.store import Store
from ptq.workload import Source, Workload
from ptq.workloads.cifar10 import WORKLOAD as cifar10

MODEL = click.Path(exists=True, dir_okay=False, path_type=Path)
DATA_DIR = click.Path(exists=True, file_okay=False, path_type=Path)


def notify(line: str) -> None:
    """Show a line of progress on stderr."""
    click.echo(f"ptq: {line} ...", err=True)


def workload(model: Path, data_dir: Path, per_class: int = 100, seed: int = 42) -> Workload:
    """The cifar10 workload with another model, folder, sample count and seed."""
    return replace(
        cifar10(data_dir),
        name=_name(model),
        model=partial(_source, model),
        calibration=lambda: calibration_samples(read(data_dir, "train"), per_class=per_class, seed=seed),
        artifacts={},
    )


def backend_for(model: Path, named: str | None) -> Backend:
    """The backend called `named`, or the runtime whose artifacts have the model's suffix: one with a float case."""
    known = backends()
    if named is not None:
        if named not in known:
            raise click.BadParameter(f"--backend {named}: should be one of {', '.join(known)}")
        return known[named]
    for backend in known.values():
        own = Case("any", backend.name, FP32)
        if own in backend.cases("any") and backend.suffix(own) == model.suffix:
            return backend
    raise BadModel(f"{model}: no backend runs a {model.suffix or 'suffixless'} file; convert it with `ptq convert`")


def predictions(model: Path, backend: Backend, subject: Workload, samples: ArraySamples) -> Predictions:
    """What a model file says of samples, straight from the file, nothing kept."""
    predict = backend.load(model)

    def outputs() -> object:
        for batch in samples.batches(BATCH):
            subject.contract.check(batch)
            yield np.asarray(predict(batch), dtype=np.float32)

    return subject.metric.collect(outputs(), samples)  # type: ignore[arg-type]


def _source(model: Path, store: Store) -> Source:
    return Source(converted(model, store), model) if model.suffix in SUFFIXES else Source(model)


def _name(model: Path) -> str:
    return "".join(each if each.isalnum() and each.isascii() else "_" for each in model.stem.lower()) or "model"
