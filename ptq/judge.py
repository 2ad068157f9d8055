"""Judge: measures a case against the float model and holds the result to its bar."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.bars import Bars
from ptq.cases import Case
from ptq.errors import NoData, NotInstalled, PtqError, Unsupported
from ptq.methods import corrects
from ptq.metrics.metric import Score
from ptq.pipeline import Pipeline, Said, backends, cases_of, reference_case
from ptq.progress import Notify, silent
from ptq.race import Race, race
from ptq.reference import References
from ptq.result import NO_DATA, NOT_INSTALLED, UNSUPPORTED, Result
from ptq.store import Store, write_bytes
from ptq.structure import Structure
from ptq.verdict import CONFIDENCE, judge_accuracy, judge_structure
from ptq.workload import Workload


class Judge:
    """The cases of some workloads, and the result of each.

    Raises `PtqError` when there is no workload, two share a name, or one has no case or a name that no id can hold.
    """

    def __init__(
        self,
        workloads: Sequence[Workload],
        bars: Bars,
        references: References,
        store: Store,
        notify: Notify = silent,
    ) -> None:
        for each in workloads:
            if not isinstance(each, Workload):
                raise PtqError(
                    f"pytest_ptq_workloads returned {type(each).__name__}, but should return a list of ptq.Workload"
                )
        names = [each.name for each in workloads]
        if not names:
            raise PtqError("no workload: declare at least one in conftest.py with the hook pytest_ptq_workloads")
        if twice := {name for name in names if names.count(name) > 1}:
            raise PtqError(f"workload {min(twice)!r} is declared twice, but a name should be declared once")
        self.bars = bars
        self.references = references
        self.pipelines: Mapping[str, Pipeline] = {each.name: Pipeline(each, store, notify) for each in workloads}
        self._cases = [case for each in workloads for case in _some_cases(each)]

    def cases(self) -> list[Case]:
        """Every case of every workload, the impossible ones too."""
        return list(self._cases)

    def graphs(self) -> dict[Case, list[Case]]:
        """The cases worth timing, each with every case that runs its graph, itself among them.

        Most methods only move scales: the same kernels run, and minmax is timed where there is it. One that corrects
        the model changes the graph, and an artifact made elsewhere is a graph of its own.
        """
        graphs: dict[tuple[str | bool, ...], list[Case]] = {}
        for case in self.cases():
            if not case.is_float:
                own = case.method if case.method in self.pipelines[case.workload].workload.artifacts else ""
                graph = (case.workload, case.backend, case.dtype, case.granularity, case.exclude)
                graphs.setdefault((*graph, corrects(case.method), own), []).append(case)
        return {
            min(cases, key=lambda case: (not _possible(case), case.method != "minmax")): cases
            for cases in graphs.values()
        }

    def result(self, case: Case) -> Result:
        """Measure and judge one case.

        What cannot be measured for want of data or of a framework, or never, is a `Result` with its reason; any
        other `PtqError` (a broken file, a missing bar) is raised.
        """
        bar = self.bars.of(case.id)
        metric = self.pipelines[case.workload].workload.metric.name
        try:
            return self._measured(case)
        except NotInstalled as absent:
            verdict, reason = NOT_INSTALLED, str(absent)
        except NoData as absent:
            verdict, reason = NO_DATA, str(absent)
        except Unsupported as absent:
            verdict, reason = UNSUPPORTED, str(absent)
        return Result(case, metric, verdict, reason, bar=bar.as_json())

    def structure(self, case: Case) -> Structure:
        """What of a case really runs in integer, held to its bar; raises where `Pipeline.artifact` does.

        A float case is meant to run in float: ``min_integer_share`` is not for it.
        """
        census, bar = self.pipelines[case.workload].census(case), self.bars.of(case.id)
        if case.is_float:
            bar = replace(bar, min_integer_share=None)
        return Structure(case, census, judge_structure(case.id, census, bar))

    def race(self, case: Case, batch: int, base: Path | None) -> Race:
        """A case ready to be timed, see `ptq.race.race`."""
        ready = race(self.pipelines[case.workload], case, batch, self.bars.of(case.id), base)
        return replace(ready, stands_for=tuple(each.id for each in self.graphs().get(case, [case])))

    def save(self, case: Case, folder: Path) -> None:
        """Copy the artifact of a case to `folder`, under its id: the base of a later race."""
        artifact = self.pipelines[case.workload].artifact(case).path
        write_bytes(folder / f"{case.id}{artifact.suffix}", artifact.read_bytes())

    def _measured(self, case: Case) -> Result:
        bar = self.bars.of(case.id)
        pipeline = self.pipelines[case.workload]
        metric, samples = pipeline.workload.metric, pipeline.evaluation_samples
        said = pipeline.predict(case)
        fp32 = pipeline.predict(reference_case(case.workload))
        found = pipeline.measure(said, fp32, bar.confidence or CONFIDENCE)
        score, fp32_score, interval = found.score, found.fp32, found.interval
        census = pipeline.census(case)
        verdict = judge_accuracy(case.id, metric.name, score, fp32_score, interval, bar)
        result = Result(
            case=case,
            metric=metric.name,
            verdict=verdict.name,
            reason=verdict.reason,
            red=verdict.red,
            n=score.n,
            value=score.value,
            fp32_value=fp32_score.value,
            drop=interval.drop,
            interval=(interval.low, interval.high),
            p=interval.p,
            correct=score.correct,
            fp32_correct=fp32_score.correct,
            agreement=found.agreement,
            sqnr_db=found.sqnr_db,
            per_class=score.per_class,
            fp32_per_class=fp32_score.per_class,
            details=score.details,
            size_bytes=said.artifact.path.stat().st_size,
            fp32_size_bytes=fp32.artifact.path.stat().st_size,
            integer_share=None if case.is_float else census.integer_share,
            calibration=_calibration(case, pipeline),
            seconds=_seconds(said),
            notes={key: value for key, value in said.artifact.notes.items() if not key.startswith("calibrate")},
            bar=bar.as_json(),
            evaluation=samples.digest,
            outcomes=_packed(score),
        )
        comparison = self.references.compare(result)
        if comparison is None:
            return result
        then = self.references.entries[case.id].value
        reference = {"value": then, "worse": comparison.worse, "line": comparison.line}
        return replace(result, reference=reference, red=result.red or comparison.worse)


def _some_cases(workload: Workload) -> list[Case]:
    found = cases_of(workload)
    if not found:
        raise PtqError(f"{workload.name}: its include leaves no case, so nothing would be judged: widen it")
    return found


def _possible(case: Case) -> bool:
    backend = backends().get(case.backend)
    return backend is None or backend.unsupported(case) is None


def _calibration(case: Case, pipeline: Pipeline) -> dict[str, Any]:
    if case.is_float or case.method in pipeline.workload.artifacts:
        return {}
    samples = pipeline.calibration_samples
    return {"n": len(samples), "seed": samples.seed, "digest": samples.digest, "method": case.method}


def _seconds(said: Said) -> dict[str, float | None]:
    notes = said.artifact.notes
    calibrate = float(notes["calibrate_seconds"]) if "calibrate_seconds" in notes else None
    within = calibrate or 0.0 if notes.get("calibrated_here") == "True" else 0.0
    return {
        "calibrate": calibrate,
        "quantize": max(said.artifact.seconds - within, 0.0),
        "evaluate": said.evaluate_seconds,
    }


def _packed(score: Score) -> str | None:
    """Right/wrong per image as base64 of packed bits, first image in the highest bit; None for other outcomes."""
    right: npt.NDArray[np.float64] = score.outcomes
    if score.correct is None or not np.isin(right, (0, 1)).all():
        return None
    return base64.b64encode(np.packbits(right.astype(bool)).tobytes()).decode()
