"""Pipeline: one workload on its way through quantization: which steps a case takes, and what they gave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ptq.backends.protocol import Census, FloatModel, Predictor
from ptq.calibration.statistics import Extremes, TensorStatistics
from ptq.cases import Case
from ptq.data.contract import InputContract
from ptq.data.samples import FittedSamples, Samples
from ptq.data.signature import Signature
from ptq.engine.artifact import Quantize
from ptq.engine.float_model import Bind, Convert, Prepare
from ptq.engine.passes import Passes
from ptq.engine.predictions import Count, Predict, read_predictions
from ptq.engine.registry import Registry, reference_case
from ptq.engine.rewrite import Rewrite
from ptq.engine.sample_set import Facts, SampleSet
from ptq.engine.score import Compare, Compared
from ptq.engine.store import Entry, Store
from ptq.engine.workload import Source, Workload
from ptq.errors import BadData, BadModel, NotInstalled, PtqError, Unsupported
from ptq.metrics.fidelity import fidelity_for
from ptq.metrics.metric import Metric
from ptq.metrics.top1 import Top1
from ptq.models.convert import is_model
from ptq.models.onnx_file import digest, signature
from ptq.quantization.calibration import Calibration
from ptq.quantization.method import Range, Transform
from ptq.quantization.quantizer import Quantizer
from ptq.stamps import known_digest

BATCH = 100
"""Inputs per batch where the model's own batch varies. Fixed, because some frameworks' results depend on it."""


@dataclass(frozen=True)
class Measured:
    """What a case scored and how it compares with the float model; both artifacts; what it took, in seconds:
    ``calibrate, quantize, evaluate``, None where nothing was calibrated.
    """

    compared: Compared
    artifact: Entry
    fp32_artifact: Entry
    seconds: Mapping[str, float | None]


class Pipeline:
    """One workload's steps. Everything is lazy: nothing is read before it is needed."""

    def __init__(self, workload: Workload, store: Store, registry: Registry | None = None) -> None:
        self.workload = workload
        self.store = store
        self.registry = registry if registry is not None else Registry()
        self._chosen: dict[tuple[str, Quantizer], dict[str, Range]] = {}
        self._calibration = SampleSet(f"{workload.name}: calibration", workload.calibration, store)
        self._evaluation = SampleSet(f"{workload.name}: evaluation", workload.evaluation, store)
        self._transformed: dict[tuple[Transform, ...], Passes] = {}
        self._artifacts: dict[Case, Entry] = {}
        self._censuses: dict[Case, Census] = {}
        self._missing: dict[str, str | None] = {}
        self._predictions: dict[tuple[Case, str], Entry] = {}

    def cases(self) -> list[Case]:
        """Every case, the impossible ones too: the backends' grids, then artifacts made elsewhere.

        Raises `PtqError` for an artifact whose case has the id of another.
        """
        name = self.workload.name
        listed = [case for case in self.registry.grid(name) if self._asks(case) and self.workload.include(case)]
        foreign = [Case(name, made.backend, made.dtype, key) for key, made in sorted(self.workload.artifacts.items())]
        taken = {case.id for case in listed}
        for case in foreign:
            if case.method in self.registry.methods or case.id in taken:
                raise PtqError(
                    f"{name}: the artifact {case.method!r} is called as a method or another case is, but a name should "
                    "mean one thing: call it something else"
                )
            taken.add(case.id)
        return listed + foreign

    @cached_property
    def source(self) -> Source:
        """The float model as ONNX; `NoData` or `NotInstalled` when it cannot be had, `BadData` for a wrong contract."""
        given = self.workload.model
        found = given() if callable(given) else given
        source = found if isinstance(found, Source) else self._converted(found)
        known = source.given or source.onnx
        self._check_contracts(signature(source.onnx), known.name)
        asked = self._asked(signature(source.onnx))
        constants = {name: each.constant for name, each in asked.items() if each.constant is not None}
        axes = {name: each.batch_axis for name, each in asked.items() if each.batch_axis}
        if constants or axes:
            entry = self.store.get(Bind(self.workload.name, source.onnx, constants, axes))
            return Source(entry.path, given=known)
        return source

    @cached_property
    def signature(self) -> Signature:
        """What the float model takes and returns."""
        return signature(self.source.onnx)

    @cached_property
    def contracts(self) -> Mapping[str, InputContract]:
        """What every input must be, by input name: as the workload says, else shape and dtype by the model."""
        said, inputs = self._asked(self.signature), self.signature.inputs
        # rank and fixed sizes are held where batches are fitted to the model
        return {
            tensor.name: said[tensor.name].bound
            if tensor.name in said
            else InputContract(tensor.shape, dtype=tensor.dtype)
            for tensor in inputs
        }

    def _asked(self, takes: Signature) -> Mapping[str, InputContract]:
        """The workload's contracts by input name."""
        given = self.workload.contract
        return {takes.inputs[0].name: given} if isinstance(given, InputContract) else dict(given or {})

    @property
    def calibration_samples(self) -> FittedSamples:
        """The calibration samples as the model takes them: one set, for every case."""
        return self._calibration.fitted(self.signature)

    @property
    def evaluation_samples(self) -> FittedSamples:
        """The evaluation samples as the model takes them: one set, for every case."""
        return self._evaluation.fitted(self.signature)

    def facts(self, which: str) -> Facts:
        """What is known of the set ``calibration`` or ``evaluation``."""
        return {"calibration": self._calibration, "evaluation": self._evaluation}[which].facts

    @property
    def sample_sets(self) -> Mapping[str, SampleSet]:
        """Both sets by name."""
        return {"calibration": self._calibration, "evaluation": self._evaluation}

    @property
    def readers(self) -> Mapping[str, Callable[[], Samples]]:
        """What reads a set anew; those of samples given as they are, are left out."""
        given = {"calibration": self.workload.calibration, "evaluation": self.workload.evaluation}
        return {name: read for name, read in given.items() if callable(read)}

    @cached_property
    def model(self) -> FloatModel:
        """The float model in every form a backend may start from."""
        source = self.source
        return FloatModel(source.onnx, self._passes.prepared.path, source.keras, self.workload.exclude, source.given)

    def _asks(self, case: Case) -> bool:
        method, asks = self.registry.methods.get(case.method), getattr(self.registry.backend(case), "on_demand", None)
        listed = (method is None or method.listed) and not (asks is not None and asks(case))
        return listed or case.method in self.workload.methods

    @cached_property
    def fixed_batch(self) -> int | None:
        """The model's own batch size, None when it varies."""
        return self.signature.batch

    @property
    def batch(self) -> int:
        """Inputs per batch: the model's own where it is fixed, else `BATCH`."""
        return self.fixed_batch or BATCH

    @cached_property
    def has_truth(self) -> bool:
        """Whether the evaluation samples have targets; else the float model is the truth."""
        return self.facts("evaluation").targets != "none"

    @cached_property
    def metric(self) -> Metric:
        """The workload's metric; top-1 for class indices; else agreement or SQNR with the float model."""
        if self.workload.metric is not None:
            return self.workload.metric
        if self.has_truth:
            return Top1()
        entry = self._predicted(reference_case(self.workload.name), Metric())
        return fidelity_for(read_predictions(entry.path))

    @property
    def passes(self) -> Passes:
        """What the passes over the calibration samples saw; each runs at the first call."""
        return self._passes

    @property
    def statistics(self) -> Mapping[str, TensorStatistics]:
        """By tensor name, what one pass over the calibration samples saw."""
        return self._passes.statistics

    @property
    def extremes(self) -> Mapping[str, Extremes]:
        """By tensor name, its smallest and largest value over the calibration samples."""
        return self._passes.extremes

    @property
    def has_lighter_pass(self) -> bool:
        """Whether `extremes` costs less than `statistics`: not for a model that takes one image at a time anyway."""
        return self.fixed_batch is None

    @property
    def calibration(self) -> Calibration:
        """What a backend quantizes with."""
        return self._step(reference_case(self.workload.name)).calibration

    def artifact(self, case: Case) -> Entry:
        """The case's quantized artifact.

        Raises `NotInstalled` and `Unsupported` where the case cannot be, `NoData` where its data is absent.
        """
        if case not in self._artifacts:
            self._artifacts[case] = self._artifact(case)
        return self._artifacts[case]

    def measured(self, case: Case, confidence: float) -> Measured:
        """What the case scored against the float model on the evaluation samples."""
        reference = reference_case(self.workload.name)
        ours, theirs = self._predicted(case, self.metric), self._predicted(reference, self.metric)
        step = Compare(case.id, ours, theirs, self._evaluation, self.metric, self.has_truth, confidence)
        compared = Compared.from_json(json.loads(self.store.get(step).path.read_text()))
        artifact = self.artifact(case)
        passes = [seconds for kind, seconds in artifact.inputs if kind == "statistics"]
        taken = {
            "calibrate": sum(passes) if passes else None,
            "quantize": artifact.seconds,
            "evaluate": ours.seconds,
        }
        return Measured(compared, artifact, self.artifact(reference), taken)

    def evaluate_block(self, case: Case, number: int) -> None:
        """Evaluate one block of samples; nothing where all are one block."""
        parts = self._predict(case, Metric()).parts  # whatever the metric, blocks are the same
        if number < len(parts):
            self.store.get(parts[number])

    def census(self, case: Case) -> Census:
        """What the runtime executes for the case's artifact."""
        if case not in self._censuses:
            artifact = self.artifact(case)  # says so where the backend is not installed, before its versions are asked
            step = Count(case, self.registry.backend(case), self.registry.versions(case.backend), artifact)
            self._censuses[case] = Census.from_json(json.loads(self.store.get(step).path.read_text()))
        return self._censuses[case]

    def passes_of(self, case: Case, depth: int | None = None) -> Passes:
        """The passes over the calibration samples of the model that the case was quantized from, which a method's
        transforms may have rewritten: all, or the first `depth` of them."""
        method = self.registry.methods.get(case.method)
        return self._rewritten(method.transforms[:depth] if method else ())

    def predictor(self, case: Case, threads: int = 1) -> Predictor:
        """The case's artifact, loaded."""
        return self.registry.backend(case).load(self.artifact(case).path, threads)

    def _artifact(self, case: Case) -> Entry:
        backend = self.registry.backend(case)
        if case.backend not in self._missing:
            self._missing[case.backend] = backend.missing()
        if (missing := self._missing[case.backend]) is not None:
            raise NotInstalled(missing)
        if case.method in self.workload.artifacts:
            return self._foreign(case)
        if (reason := backend.unsupported(case)) is not None:
            raise Unsupported(reason)
        return self.store.get(self._step(case))

    def _foreign(self, case: Case) -> Entry:
        given = self.workload.artifacts[case.method].path
        path = Path(given() if callable(given) else given)
        if not path.is_file():
            raise BadModel(f"{path}: no such file, but {case} should be there")
        # with the weights in files beside it, an ONNX model is more than its own bytes
        content = digest(path) if path.suffix == ".onnx" else known_digest(path)
        return Entry(path, content, notes={"calibration": "made elsewhere"})

    def _step(self, case: Case) -> Quantize:
        source = self.source
        # the float case takes the file as it is: it runs where preparation fails, too
        passes, method = self._passes, self.registry.methods.get(case.method)
        model = FloatModel(source.onnx, source.onnx, source.keras, (), source.given)
        if not case.is_float:
            passes = self._rewritten(method.transforms if method else ())
            model = replace(model, exclude=self.workload.exclude)
        return Quantize(
            case=case,
            backend=self.registry.backend(case),
            backend_versions=self.registry.versions(case.backend),
            model=model,
            model_digest=self._model_digest,
            passes=passes,
            methods=self.registry.methods,
            lighter=self.has_lighter_pass,
            chosen=self._chosen,
        )

    def _predict(self, case: Case, metric: Metric) -> Predict:
        return Predict(
            case=case,
            backend=self.registry.backend(case),
            versions=self.registry.versions(case.backend),
            artifact=self.artifact(case),
            samples=self._evaluation,
            signature=self.signature,
            contracts=self.contracts,
            metric=metric,
            batch=self.batch,
        )

    def _predicted(self, case: Case, metric: Metric) -> Entry:
        known = (case, type(metric).__qualname__)
        if known not in self._predictions:
            self._predictions[known] = self.store.get(self._predict(case, metric))
        return self._predictions[known]

    @cached_property
    def _passes(self) -> Passes:
        prepare = Prepare(self.workload.name, self.source.onnx)
        return Passes(self.store, self.workload.name, prepare, self._calibration, self.signature, self.contracts)

    def _rewritten(self, transforms: tuple[Transform, ...]) -> Passes:
        """The passes over the model as the transforms have it; methods that share them share these."""
        if not transforms:
            return self._passes
        if transforms not in self._transformed:
            before = self._rewritten(transforms[:-1])
            self._transformed[transforms] = replace(before, prepare=Rewrite(transforms[-1], before))
        return self._transformed[transforms]

    @cached_property
    def _model_digest(self) -> str:
        """sha256 in hex of the float model's bytes, in every form a backend may start from."""
        onnx, keras = digest(self.source.onnx), self.source.keras
        return onnx if keras is None else hashlib.sha256(f"{onnx} {_tree_digest(keras)}".encode()).hexdigest()

    def _converted(self, given: object) -> Source:
        if not isinstance(given, Path | str):
            raise BadData(
                f"{self.workload.name}: its model is {type(given).__name__}, but should be a path or a ptq.Source"
            )
        path = Path(given)
        if path.suffix == ".onnx":
            return Source(path)
        if not is_model(path):
            raise BadModel(
                f"{self.workload.name}: {path}: no model is there, but should be: an .onnx, .h5, .keras or float "
                ".tflite file, or a SavedModel folder"
            )
        entry = self.store.get(Convert(self.workload.name, path, _tree_digest(path)))
        return Source(entry.path, None if path.suffix == ".tflite" else path, path)

    def _check_contracts(self, have: Signature, file: str) -> None:
        given, names = self.workload.contract, [tensor.name for tensor in have.inputs]
        if isinstance(given, InputContract):
            if len(names) != 1:
                raise BadData(
                    f"{self.workload.name}: one contract, but {file} takes {', '.join(names)}: give a mapping by input"
                )
            given = {names[0]: given}
        for name, contract in (given or {}).items():
            if name not in names:
                raise BadData(f"{self.workload.name}: contract of {name!r}, but {file} takes {', '.join(names)}")
            tensor = have.inputs[names.index(name)]
            fits = len(tensor.shape) == len(contract.shape) and all(
                a is None or b is None or a == b for a, b in zip(tensor.shape, contract.shape, strict=True)
            )
            if not fits:
                raise BadData(
                    f"{self.workload.name}: contract.shape={contract.shape}, but should match {file}'s input "
                    f"{name!r} of shape {tensor.shape}"
                )
            if tensor.dtype != contract.dtype:
                raise BadData(
                    f"{self.workload.name}: contract.dtype={contract.dtype}, but {file}'s input {name!r} is "
                    f"{tensor.dtype}"
                )


def _tree_digest(path: Path) -> str:
    """sha256 in hex of a file, or of every file in a folder with its name."""
    if path.is_file():
        return known_digest(path)
    whole = hashlib.sha256()
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        whole.update(f"{file.relative_to(path).as_posix()} {known_digest(file)}\n".encode())
    return whole.hexdigest()
