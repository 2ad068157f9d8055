"""Pipeline: from a case of one workload to its predictions, each step made once and kept in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from ptq.backends.onnxruntime.correct import moments
from ptq.backends.onnxruntime.extremes import extremes
from ptq.backends.onnxruntime.prepare import prepare
from ptq.backends.onnxruntime.statistics import statistics
from ptq.backends.protocol import Backend, Census, FloatModel
from ptq.calibration.cache_file import load_ranges, load_statistics, save_ranges, save_statistics
from ptq.calibration.calibration import Calibration
from ptq.calibration.patches import Moments, load_moments, save_moments
from ptq.calibration.statistics import Extremes, TensorStatistics
from ptq.cases import FP32, NONE, Case
from ptq.environment import environment, instruction_sets
from ptq.errors import BadData, BadModel, NotInstalled, PtqError, Unsupported
from ptq.methods import Range
from ptq.metrics.metric import Interval, Predictions, Score
from ptq.models.onnx_file import digest, signature
from ptq.progress import Notify, silent, step
from ptq.quantizer import Quantizer
from ptq.registry import modules
from ptq.samples import Float32, Samples
from ptq.store import Entry, Store, file_digest
from ptq.workload import Source, Workload

BATCH = 100
"""Inputs per batch where the model's own batch varies. Fixed, because some frameworks' results depend on it."""

_SCORES = ("score", "fp32")


@dataclass(frozen=True)
class Said:
    """What an artifact said of the evaluation samples, and what it took."""

    predictions: Predictions
    artifact: Entry
    evaluate_seconds: float
    address: str


@dataclass(frozen=True)
class Measured:
    """What a case scored, what the float model did on the same samples, and how the two compare."""

    score: Score
    fp32: Score
    interval: Interval
    agreement: float | None
    sqnr_db: float | None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Measured:
        """The inverse of `as_json`."""
        score, fp32 = (Score(**{**content[name], "outcomes": np.array(content[name]["outcomes"])}) for name in _SCORES)
        return cls(score, fp32, Interval(**content["interval"]), content["agreement"], content["sqnr_db"])

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; floats keep every bit."""
        content = asdict(self)
        for name in _SCORES:
            content[name]["outcomes"] = content[name]["outcomes"].tolist()
        return content


class Pipeline:
    """One workload on its way through quantization. Everything is lazy: nothing is read before it is needed."""

    def __init__(self, workload: Workload, store: Store, notify: Notify = silent) -> None:
        self.workload = workload
        self.store = store
        self._notify = notify
        self._chosen: dict[tuple[str, Quantizer], dict[str, Range]] = {}

    @cached_property
    def source(self) -> Source:
        """The float model; `NoData` or `NotInstalled` when it cannot be had, `BadData` when the contract differs."""
        model = self.workload.model
        with step(f"{self.workload.name}: converting the float model", self._notify):
            found = model(self.store) if callable(model) else Source(Path(model))
        if not isinstance(found, Source):
            raise BadData(
                f"{self.workload.name}: its model is {type(found).__name__}, but the function should return ptq.Source"
            )
        have, want = signature(found.onnx), self.workload.contract
        if len(have.shape) != len(want.shape) or any(
            a is not None and b is not None and a != b for a, b in zip(have.shape, want.shape, strict=False)
        ):
            raise BadData(
                f"{self.workload.name}: contract.shape={want.shape}, but should match {found.onnx.name}'s input "
                f"{have.name!r} of shape {have.shape}"
            )
        if have.dtype != want.dtype:
            raise BadData(
                f"{self.workload.name}: contract.dtype={want.dtype}, but {found.onnx.name}'s input is {have.dtype}"
            )
        return found

    @cached_property
    def calibration_samples(self) -> Samples:
        """The calibration samples: one set, for every case."""
        return self._read(self.workload.calibration)

    @cached_property
    def checked_calibration_samples(self) -> Samples:
        """The calibration samples, every batch of which keeps the contract: `ContractBroken` when one does not."""
        for _ in self._checked(self.calibration_samples):
            pass
        return self.calibration_samples

    @cached_property
    def evaluation_samples(self) -> Samples:
        """The evaluation samples: one set, for every case."""
        return self._read(self.workload.evaluation)

    @cached_property
    def model(self) -> FloatModel:
        """The float model in every form a backend may start from."""
        source = self.source
        key = {"model": digest(source.onnx), "step": "prepare", "versions": _versions("onnxruntime")}
        prepared = self.store.get("model", key, ".onnx", lambda out: prepare(source.onnx, out))
        return FloatModel(source.onnx, prepared.path, source.keras, self.workload.exclude)

    @cached_property
    def model_digest(self) -> str:
        """sha256 in hex of the float model's bytes, in every form a backend may start from."""
        onnx, keras = digest(self.source.onnx), self.source.keras
        return onnx if keras is None else hashlib.sha256(f"{onnx} {file_digest(keras)}".encode()).hexdigest()

    @cached_property
    def fixed_batch(self) -> int | None:
        """The model's own batch size, None when it varies."""
        return signature(self.source.onnx).batch

    @property
    def batch(self) -> int:
        """Inputs per batch: the model's own where it is fixed, else `BATCH`."""
        return self.fixed_batch or BATCH

    @cached_property
    def statistics_entry(self) -> Entry:
        """The stored statistics of one pass over the calibration samples; the pass runs here if it must."""

        def make(out: Path) -> None:
            samples = self.checked_calibration_samples
            with step(f"{self.workload.name}: one calibration pass over {len(samples)} samples", self._notify):
                save_statistics(out, statistics(self.model.prepared, samples))

        return self.store.get("statistics", self._pass_key(), ".json", make)

    def _pass_key(self) -> dict[str, Any]:
        return {
            "prepared": file_digest(self.model.prepared),
            "calibration": self.calibration_samples.digest,
            "contract": repr(self.workload.contract),
            "versions": _versions("onnxruntime"),
        }

    @cached_property
    def statistics(self) -> Mapping[str, TensorStatistics]:
        """By tensor name, what one pass over the calibration samples saw."""
        return load_statistics(self.statistics_entry.path)

    @cached_property
    def extremes_entry(self) -> Entry:
        """The stored min and max of every tensor, from a pass lighter than that of the statistics."""
        key = {**self._pass_key(), "of": "extremes"}

        def make(out: Path) -> None:
            samples = self.checked_calibration_samples
            with step(f"{self.workload.name}: the extremes of {len(samples)} samples", self._notify):
                seen = extremes(self.model.prepared, samples)
                save_ranges(out, {name: (each.min, each.max) for name, each in seen.items()})

        return self.store.get("statistics", key, ".json", make)

    @cached_property
    def extremes(self) -> Mapping[str, Extremes]:
        """By tensor name, its smallest and largest value over the calibration samples."""
        return {name: Extremes(*bounds) for name, bounds in load_ranges(self.extremes_entry.path).items()}

    @property
    def has_lighter_pass(self) -> bool:
        """Whether `extremes` costs less than `statistics`: not for a model that takes one image at a time anyway."""
        return self.fixed_batch is None

    @cached_property
    def moments(self) -> Mapping[str, Moments]:
        """By a layer's output tensor, the moments of its patches: one more pass, for the methods that correct."""
        key = {**self._pass_key(), "of": "moments"}

        def make(out: Path) -> None:
            with step(f"{self.workload.name}: moments of every layer", self._notify):
                save_moments(out, moments(self.model.prepared, self.calibration_samples))

        return load_moments(self.store.get("statistics", key, ".npz", make).path)

    def artifact(self, case: Case) -> Entry:
        """The case's quantized artifact.

        Raises `NotInstalled` and `Unsupported` where the case cannot be, `NoData` where its data is absent.
        """
        backend = backend_of(case)
        if (missing := backend.missing()) is not None:
            raise NotInstalled(missing)
        if case.method in self.workload.artifacts:
            path = Path(self.workload.artifacts[case.method].path())
            if not path.is_file():
                raise BadModel(f"{path}: no such file, but {case} should be there")
            return Entry(path, 0.0, {"calibration": "made elsewhere"}, made=False)
        if (reason := backend.unsupported(case)) is not None:
            raise Unsupported(reason)
        fields = case.fields()
        del fields["workload"]
        key = {
            "model": self.model_digest,
            "case": fields,
            "calibration": None if case.is_float else self.calibration_samples.digest,
            "contract": None if case.is_float else repr(self.workload.contract),
            "exclude": [] if case.exclude == NONE else list(self.workload.exclude),
            # ranges come from onnxruntime's pass, whatever the backend
            "versions": [_versions("onnxruntime"), _versions(backend.name)],
        }
        with step(f"{case}: quantizing", self._notify):
            return self.store.get("artifact", key, backend.suffix(case), lambda out: self._quantize(backend, case, out))

    def predict(self, case: Case) -> Said:
        """What the case's artifact says of every evaluation sample, reduced by the workload's metric."""
        backend, metric = backend_of(case), self.workload.metric
        artifact, samples = self.artifact(case), self.evaluation_samples
        key = {
            **_execution(backend, artifact),
            "evaluation": samples.digest,
            "contract": repr(self.workload.contract),
            "metric": dict(metric.key()),
            "batch": self.batch,
        }

        def make(out: Path) -> None:
            predict = backend.load(artifact.path)
            outputs = (predict(batch) for batch in self._checked(samples))
            with out.open("wb") as file:
                np.savez(file, allow_pickle=False, **metric.collect(outputs, samples))

        with step(f"{case}: evaluating {len(samples)} samples", self._notify):
            entry = self.store.get("predictions", key, ".npz", make)
        with np.load(entry.path, allow_pickle=False) as arrays:
            return Said({name: arrays[name] for name in arrays.files}, artifact, entry.seconds, entry.path.stem)

    def measure(self, said: Said, fp32: Said, confidence: float) -> Measured:
        """Score and compare; kept, because a detector's interval resamples its images a thousand times."""
        metric, samples = self.workload.metric, self.evaluation_samples
        key = {
            "said": said.address,
            "fp32": fp32.address,
            "labels": samples.digest,
            "names": list(samples.class_names),
            "confidence": confidence,
        }

        def make(out: Path) -> None:
            mine, reference = said.predictions, fp32.predictions
            found = Measured(
                metric.score(mine, samples),
                metric.score(reference, samples),
                metric.drop(mine, reference, samples, confidence),
                metric.agreement(mine, reference),
                metric.sqnr_db(mine, reference),
            )
            out.write_text(json.dumps(found.as_json()))

        return Measured.from_json(json.loads(self.store.get("score", key, ".json", make).path.read_text()))

    def census(self, case: Case) -> Census:
        """What the runtime executes for the case's artifact; kept, so that a second run loads no framework."""
        backend, artifact = backend_of(case), self.artifact(case)
        key = _execution(backend, artifact)

        def make(out: Path) -> None:
            out.write_text(json.dumps(asdict(backend.census(artifact.path)), sort_keys=True))

        return Census.from_json(json.loads(self.store.get("census", key, ".json", make).path.read_text()))

    def _quantize(self, backend: Backend, case: Case, out: Path) -> Mapping[str, str]:
        passes: list[Entry] = []

        def full() -> Mapping[str, TensorStatistics]:
            passes.append(self.statistics_entry)
            return self.statistics

        def light() -> Mapping[str, Extremes]:
            passes.append(self.extremes_entry)
            return self.extremes

        samples = self.calibration_samples if case.is_float else self.checked_calibration_samples
        lighter = light if self.has_lighter_pass else None
        calibration = Calibration(samples, full, lambda: self.moments, lighter, self._chosen)
        notes = dict(backend.quantize(case, self.model, calibration, out))
        if passes:
            notes["calibrate_seconds"] = repr(sum({each.path: each.seconds for each in passes}.values()))
            notes["calibrated_here"] = repr(any(each.made for each in passes))
        return notes

    def _checked(self, samples: Samples) -> Iterator[Float32]:
        for batch in samples.batches(self.batch):
            self.workload.contract.check(batch)
            yield batch

    def _read(self, samples: Samples | Callable[[], Samples]) -> Samples:
        with step(f"{self.workload.name}: reading samples", self._notify):
            found = samples() if callable(samples) else samples
        if not hasattr(found, "batches"):
            raise BadData(
                f"{self.workload.name}: samples are {type(found).__name__}, but should be ptq.Samples: wrap arrays in "
                "ptq.ArraySamples(images, labels)"
            )
        return found


def backends() -> dict[str, Backend]:
    """Every backend by name: the files of `ptq/backends`."""
    return cast("dict[str, Backend]", modules("ptq.backends", "BACKEND"))


def backend_of(case: Case) -> Backend:
    """The case's backend; `PtqError` names those there are."""
    known = backends()
    if case.backend not in known:
        raise PtqError(f"{case}: backend {case.backend!r} is not known: it should be one of {', '.join(known)}")
    return known[case.backend]


def reference_case(workload: str) -> Case:
    """The float case every case of a workload is compared with, whatever its backend: one reference for all."""
    return Case(workload, "onnxruntime", FP32)


def float_case(case: Case) -> Case:
    """The float case of a case's runtime: its backend's own, else `reference_case`."""
    own = [each for each in backend_of(case).cases(case.workload) if each.is_float]
    return own[0] if own else reference_case(case.workload)


def cases_of(workload: Workload) -> list[Case]:
    """Every case of a workload, the impossible ones too: the backends' grids, then artifacts made elsewhere."""
    grid: Iterable[Case] = (case for backend in backends().values() for case in backend.cases(workload.name))
    listed = [case for case in grid if workload.include(case)]
    return listed + [
        Case(workload.name, made.backend, made.dtype, name) for name, made in sorted(workload.artifacts.items())
    ]


def _execution(backend: Backend, artifact: Entry) -> dict[str, Any]:
    """What decides how an artifact runs. The CPU is part of it: kernels differ, and a cache may change machines."""
    return {
        "artifact": file_digest(artifact.path),
        "backend": backend.name,
        "versions": _versions(backend.name),
        "cpu": list(instruction_sets()),
    }


@cache
def _versions(backend: str) -> dict[str, str]:
    """What does not change while a process runs, and costs milliseconds to ask.

    OpenCV is among it, whatever the backend: a digest of image files is of their bytes, and it decodes them.
    """
    return {**backends()[backend].versions(), "opencv": environment()["libraries"].get("opencv-python-headless", "")}
