"""Judge: measures a case against the float model and holds the result to its bar."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ptq.backends.protocol import Census
from ptq.cases import FP32, Case
from ptq.checks.preprocessing import known_unchecked
from ptq.checks.sound import classifies, sound
from ptq.engine.environment import instruction_sets
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import Registry
from ptq.engine.score import Compared
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import BadData, NoData, NotInstalled, PtqError, Unsupported
from ptq.files import write_bytes
from ptq.gate.bars import Bar, Bars
from ptq.gate.reference import References
from ptq.gate.result import (
    FLOAT_MODEL,
    GIVEN,
    NO_DATA,
    NO_REFERENCE,
    NOT_INSTALLED,
    NOT_QUANTIZED,
    UNSUPPORTED,
    Result,
)
from ptq.gate.structure import Structure
from ptq.gate.timing import Timing, judge_race
from ptq.gate.verdict import CONFIDENCE, FAIL, UNRESOLVED, Verdict, by_chance, judge_accuracy, judge_structure
from ptq.latency.fastest import Fastest, fastest
from ptq.latency.race import Race, race
from ptq.latency.ratio import Budget
from ptq.metrics.metric import Metric, Score
from ptq.metrics.top1 import Top1
from ptq.quantization.method import NEEDS


class Judge:
    """The cases of some workloads, and the result of each.

    Raises `PtqError` when there is no workload, two share a name, one has no case, two cases share an id, or
    `Workload.unchecked` names what is no check.
    """

    def __init__(
        self,
        workloads: Sequence[Workload],
        bars: Bars,
        references: References,
        store: Store,
        registry: Registry | None = None,
    ) -> None:
        for workload in workloads:
            if not isinstance(workload, Workload):
                raise PtqError(
                    f"pytest_ptq_workloads returned {type(workload).__name__}, but should return a list of ptq.Workload"
                )
            known_unchecked(workload)
        names = [workload.name for workload in workloads]
        if not names:
            raise PtqError("no workload: declare at least one in conftest.py with the hook pytest_ptq_workloads")
        if twice := {name for name in names if names.count(name) > 1}:
            raise PtqError(f"workload {min(twice)!r} is declared twice, but a name should be declared once")
        self.bars = bars
        self.references = references
        self.store = store
        self.registry = registry if registry is not None else Registry()
        self.pipelines: Mapping[str, Pipeline] = {
            workload.name: Pipeline(workload, store, self.registry) for workload in workloads
        }
        self._faults: dict[str, str | None] = {}
        self._fastest: dict[tuple[str, int], Fastest | None] = {}
        self._cases = [case for pipeline in self.pipelines.values() for case in _some_cases(pipeline)]

    def cases(self) -> list[Case]:
        """Every case of every workload, the impossible ones too."""
        return list(self._cases)

    def graphs(self) -> dict[Case, list[Case]]:
        """The cases worth timing, each with every case that runs its graph, itself among them.

        Most methods only move scales: the same kernels run, and the one that needs least of calibration is timed. One
        that corrects the model changes the graph. A transformed model is a graph of its own, so is an artifact made
        elsewhere, and what the backend itself tells apart.
        """
        methods = self.registry.methods
        graphs: dict[tuple[str | bool, ...], list[Case]] = {}
        for case in self.cases():
            if not case.is_float:
                method = methods.get(case.method)
                foreign = case.method in self.pipelines[case.workload].workload.artifacts
                apart = getattr(self.registry.backends.get(case.backend), "graph", None)
                other = "" if apart is None else apart(case)
                own = case.method if foreign or (method and method.transforms) else other
                corrects = method is not None and method.corrects is not None
                graph = (case.workload, case.backend, case.dtype, case.granularity, case.exclude)
                graphs.setdefault((*graph, corrects, own), []).append(case)
        return {min(cases, key=self._cost): cases for cases in graphs.values()}

    def result(self, case: Case) -> Result:
        """Measure and judge one case.

        What cannot be measured for want of data or of a framework, or never, is a `Result` with its reason; any
        other `PtqError` (a broken file, a missing bar) is raised.
        """
        bar = self.bars.of(case.id)
        metric = self.pipelines[case.workload].workload.metric or Top1()
        try:
            return self._measured(case)
        except NotInstalled as absent:
            verdict, reason = NOT_INSTALLED, str(absent)
        except NoData as absent:
            verdict, reason = NO_DATA, str(absent)
        except Unsupported as absent:
            verdict, reason = UNSUPPORTED, str(absent)
        reason = reason.removeprefix(f"{case.id}: ")  # so that equal reasons are told once
        return Result(case, metric.name, verdict, reason, bar=bar.as_json(), **_of(metric))

    def structure(self, case: Case) -> Structure:
        """What of a case really runs in integer, held to its bar; raises where `Pipeline.artifact` does.

        A float case is meant to run in float: ``min_integer_share`` is not for it.
        """
        census, bar = self.pipelines[case.workload].census(case), self.bars.of(case.id)
        if case.is_float:
            bar = replace(bar, min_integer_share=None)
        return Structure(case, census, judge_structure(case.id, census, bar, instruction_sets()))

    def race(self, case: Case, batch: int, base: Path | None, new: bool = False) -> Race:
        """A case ready to be timed, see `ptq.latency.race.race`; without its artifact in `base` only if `new` ones may
        be there. Which float model is the fastest of any runtime is measured once a workload and batch.
        """
        stands_for = tuple(other.id for other in self.graphs().get(case, [case]))
        limit = min((bar.ratio for bar in self._bars(case.id, stands_for) if bar.ratio is not None), default=None)
        pipeline = self.pipelines[case.workload]
        if base is not None and base.is_dir() and not new:
            name = f"{case.id}{pipeline.artifact(case).file.suffix}"
            if not (base / name).is_file():
                raise PtqError(
                    f"{case.id}: no {name} in the folder given with --ptq-against, so there is no race: save it "
                    "there with --ptq-artifacts, or allow cases that are new with --ptq-allow-new"
                )
        ready = race(pipeline, case, batch, limit, base, stands_for)
        if base is not None:
            return ready
        known, bars = (case.workload, batch), self._bars(case.id, stands_for)
        if known not in self._fastest:
            self._fastest[known] = fastest(pipeline, ready.inputs)
        limits = [bar.max_ratio_fastest_fp32 for bar in bars if bar.max_ratio_fastest_fp32 is not None]
        return replace(ready, fastest=self._fastest[known], fastest_limit=min(limits, default=None))

    def timing(self, ready: Race, budget: Budget | None = None) -> Timing:
        """Run a race and hold its ratio to the bars of all cases that run this graph; the worst verdict counts."""
        own, *others = self._bars(ready.case.id, ready.stands_for)
        times, isa = ready.run(budget), instruction_sets()
        held = [judge_race(ready, times, own, isa)]
        for bar in others if ready.against == FP32 else []:
            timing = judge_race(ready, times, bar, isa)
            reason = f"{timing.verdict.reason}; the bar is {bar.pattern!r}, of a case that runs the same graph"
            held.append(replace(timing, verdict=replace(timing.verdict, reason=reason)))
        return max(held, key=lambda each: (each.verdict.red, each.verdict.name in (FAIL, UNRESOLVED)))

    def _bars(self, case_id: str, stands_for: Sequence[str]) -> list[Bar]:
        """The bar of a case, then the others of those that run its graph."""
        return list(dict.fromkeys(self.bars.of(each) for each in (case_id, *stands_for)))

    def save(self, case: Case, folder: Path) -> None:
        """Copy the artifact of a case to `folder`, under its id: the base of a later race."""
        artifact = self.pipelines[case.workload].artifact(case).path
        write_bytes(folder / f"{case.id}{artifact.suffix}", artifact.read_bytes())

    def _measured(self, case: Case) -> Result:
        pipeline = self.pipelines[case.workload]
        pipeline.artifact(case)  # a case that cannot be says so before anything is measured
        metric, has_truth = pipeline.metric, pipeline.has_truth
        bar = self.bars.fitting(case.id, metric)
        measured = pipeline.measured(case, bar.confidence or CONFIDENCE)
        found = measured.compared
        self._check_measured(case, bar, metric, found)
        verdict = judge_accuracy(case.id, metric, found, bar, instruction_sets(), has_truth)
        census = None if case.is_float else pipeline.census(case)
        if census is not None and not _quantized(census):
            line = f"{case.id}: {NOT_QUANTIZED}, but should be {case.dtype}: no node is integer, none quantizes"
            verdict = Verdict(FAIL, f"{line}; likely cause: a float file, or a model without a layer to quantize", True)
        if fault := self._fault(pipeline) or (has_truth and not classifies(pipeline) and by_chance(metric, found.fp32)):
            verdict = Verdict(FAIL, f"{case.id}: {NO_REFERENCE}: evaluation: {fault}", red=True)
        score, fp32, interval, artifact = found.score, found.fp32, found.interval, measured.artifact
        result = Result(
            case=case,
            metric=metric.name,
            verdict=verdict.name,
            reason=verdict.reason,
            red=verdict.red,
            n=score.n,
            value=score.value,
            fp32_value=fp32.value,
            drop=interval.drop,
            interval=(interval.low, interval.high),
            p=interval.p,
            correct=score.correct,
            fp32_correct=fp32.correct,
            agreement=found.agreement,
            sqnr_db=None if found.sqnr_db == math.inf else found.sqnr_db,
            cosine=found.cosine,
            per_class=score.per_class,
            fp32_per_class=fp32.per_class,
            details=score.details,
            size_bytes=artifact.size,
            fp32_size_bytes=measured.fp32_artifact.size,
            integer_share=None if census is None else census.integer_share,
            calibration=_calibration(case, pipeline),
            seconds=measured.seconds,
            notes=artifact.notes,
            bar=bar.as_json(),
            evaluation=pipeline.facts("evaluation").digest,
            outcomes=_packed(score),
            truth=GIVEN if has_truth else FLOAT_MODEL,
            **_of(metric),
        )
        comparison = self.references.compare(result)
        if comparison is None:
            return result
        then = self.references.entries[case.id].value
        reference = {"value": then, "worse": comparison.worse, "line": comparison.line}
        worse = comparison.worse and bar.expects("accuracy", instruction_sets()) is None
        return replace(result, reference=reference, red=result.red or worse)

    def _fault(self, pipeline: Pipeline) -> str | None:
        """Why a workload's float model is no reference, asked once."""
        name = pipeline.workload.name
        if name not in self._faults:
            self._faults[name] = sound(pipeline)
        return self._faults[name]

    def _check_measured(self, case: Case, bar: Bar, metric: Metric, found: Compared) -> None:
        """Raise `BadData` for numbers that no bar can be held to: a gate would pass whatever they are."""
        interval = found.interval
        for value in (found.score.value, found.fp32.value, interval.drop, interval.low, interval.high):
            if not math.isfinite(value):
                raise BadData(f"{case.id}: {metric.name} gave {value}, but should give a finite number")
        beside = {"min_agreement": found.agreement, "min_sqnr_db": found.sqnr_db, "min_cosine": found.cosine}
        for key, have in beside.items():
            if getattr(bar, key) is not None and have is None:
                raise self.bars.unusable(
                    bar, f"{key}={getattr(bar, key):g}, but outputs of {case.id} cannot be compared so: remove it"
                )

    def _cost(self, case: Case) -> tuple[bool, int]:
        """(cannot be, what its method needs of calibration): the least is the one to time."""
        backend, method = self.registry.backends.get(case.backend), self.registry.methods.get(case.method)
        impossible = backend is not None and backend.unsupported(case) is not None
        return impossible, len(NEEDS) if method is None else max(map(NEEDS.index, method.needs), default=0)


def _some_cases(pipeline: Pipeline) -> list[Case]:
    found, name = pipeline.cases(), pipeline.workload.name
    if not found:
        raise PtqError(f"{name}: its include leaves no case, so nothing would be judged: widen it")
    ids: dict[str, Case] = {}
    for case in found:
        if case.id in ids:
            raise PtqError(f"{name}: two cases have the id {case.id}, but an id should mean one thing: rename a method")
        ids[case.id] = case
    return found


def _quantized(census: Census) -> bool:
    """Whether an artifact is other than a float model: where all runs in float, quantizers or small weights stay."""
    small = any(bytes_ for dtype, bytes_ in census.weight_bytes.items() if "8" in dtype)
    return bool(sum(census.integer.values()) or census.stray or census.simulated is not None or small)


def _of(metric: Metric) -> dict[str, Any]:
    """What a result says of its metric beside the name."""
    return {"unit": metric.unit, "higher_is_better": metric.higher_is_better, "has_drop": metric.has_drop}


def _calibration(case: Case, pipeline: Pipeline) -> dict[str, Any]:
    if case.is_float or case.method in pipeline.workload.artifacts:
        return {}
    facts = pipeline.facts("calibration")
    return {"n": facts.n, "seed": facts.seed, "digest": facts.digest, "method": case.method}


def _packed(score: Score) -> str | None:
    """Right/wrong per image as base64 of packed bits, first image in the highest bit; None for other outcomes."""
    right = score.outcomes
    if score.correct is None or not np.isin(right, (0, 1)).all():
        return None
    return base64.b64encode(np.packbits(right.astype(bool)).tobytes()).decode()
