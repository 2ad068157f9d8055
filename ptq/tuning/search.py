"""Search: candidates one after the other, each judged on samples that are not reported, and the best of them so far."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from ptq.cases import NONE, Case
from ptq.data.part import part
from ptq.engine.pipeline import Measured, Pipeline
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import Unsupported
from ptq.files import write_bytes
from ptq.models.onnx_file import load
from ptq.quantization.exclude import Scales
from ptq.quantization.method import Method
from ptq.sensitivity.answers import Answers
from ptq.sensitivity.keep import with_readers
from ptq.sensitivity.measure import LARGE, activation_bytes, fixed_batch, spread
from ptq.sensitivity.rank import rank, to_db
from ptq.tuning.bar import CONFIDENCE
from ptq.tuning.deadline import Deadline
from ptq.tuning.space import TIME, Recipe, levels
from ptq.tuning.trial import Time, Trial

LIFTED = (1, 2, 4, 8, 16, 32)
"""How many of the worst layers are kept in float, one trial after the other, until the bar is met."""
SAME = 0.05
"""Costs that differ by less are the same."""
CLEAR_DB = 3.0
"""By how much more of the answers one trial must leave than another for that to count: half of the noise."""
PATIENCE = 0.5
"""The share of the seconds in which recipes are tried that are as fast as one that meets the bar already."""
SLOW = 2.0
"""Seconds that judging a quarter of the samples takes, from which on hopeless candidates are told by a quarter."""
_LEAST = 32
"""Samples that a quarter is taken of."""
_REPORT = 1.5
"""Seconds that reporting takes beside running both models on the other half."""


class Search:
    """The search of one workload, whose evaluation samples are the half that is tuned on.

    `out` holds the best so far, from the first artifact on; `say` is given a line for every candidate.
    """

    def __init__(
        self, workload: Workload, store: Store, registry: Registry, max_drop: float, minimise: str, batch: int,
        deadline: Deadline, out: Path, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.workload, self.store, self.registry = workload, store, registry
        self.max_drop, self.minimise, self.batch = max_drop, minimise, batch
        self.deadline, self.out, self.say = deadline, out, say
        self.best: Trial | None = None
        self.trials: list[Trial] = []
        self.reserve = 0.0
        """Seconds that reporting the best on the other half will take."""
        self._slow = True
        self._last: Trial | None = None
        self._same = False
        """Whether auto found nothing to keep in float, so that its cases are the same as those without."""
        self._kept: tuple[str, ...] = ()
        """The nodes that auto keeps in float."""
        self._ratios: list[tuple[object, tuple[float, float, float]]] = []
        self._pipelines: dict[tuple[bool, tuple[str, ...]], Pipeline] = {}

    def run(self) -> str:
        """Try candidates until there is a reason to stop, which is returned; KeyboardInterrupt ends it, too."""
        candidates, over = self._candidates(), f"the {self.deadline.seconds:g} seconds ended"
        while self.deadline.left > self.reserve:
            candidate = None
            try:
                with self.deadline.held(self.reserve):
                    candidate = next(candidates, None)
                    if candidate is None:
                        return "nothing more to try"
                    self._last = None
                    self._try(*candidate)
            except KeyboardInterrupt:
                return over if self.deadline.left <= self.reserve else "interrupted"
            except Unsupported as reason:
                self.say(f"{candidate[0]}: {reason}" if candidate else str(reason))
        return over

    def pipeline(self, exclude: tuple[str, ...], quick: bool = False) -> Pipeline:
        """The workload with these nodes in float; `quick`: on a quarter of the samples."""
        if (quick, exclude) not in self._pipelines:
            workload = self.workload
            if quick:
                group = self.workload.metric.group if self.workload.metric else 1
                workload = replace(workload, evaluation=part(part(workload.evaluation, 0, group), 0, group))
            chosen = replace(workload, exclude=exclude or ("auto",))
            self._pipelines[quick, exclude] = Pipeline(chosen, self.store, self.registry)
        return self._pipelines[quick, exclude]

    @property
    def _met(self) -> bool:
        return self.best is not None and self.best.meets(self.max_drop)

    @property
    def _patient(self) -> bool:
        """Whether to look for a better one of the same speed."""
        return not self._met or self.deadline.left > (1 - PATIENCE) * self.deadline.seconds

    def _candidates(self) -> Iterator[tuple[Case, tuple[str, ...]]]:
        """The cheapest answers first: fixed recipes; the same with what ``auto`` finds in float; then the worst layers,
        too. Of recipes that are slower than others tried, one that meets the bar will do."""
        every = levels(load(self.pipeline(()).source.onnx), self.minimise)
        for auto, every_one in ((False, False), (True, False), (False, True)):
            for at, level in enumerate(every if not self._met and (self._same or not every_one) else ()):
                for case, exclude in self._recipes(level, auto, every_one):
                    yield case, exclude
                    if at and self._met:
                        break
                if self._met:
                    break
        yield from self._lifted()

    def _recipes(self, level: list[Recipe], auto: bool, every_one: bool) -> Iterator[tuple[Case, tuple[str, ...]]]:
        """Those not tried yet. Where half of the answers is gone, what `auto` finds is tried before `every_one`."""
        tried = {each.case for each in self.trials}
        for dtype, method in level:
            dynamic = self._method(method).dynamic
            gone = any(each.lost and not each.exclude for each in self.trials) and not (every_one or auto or dynamic)
            case = self._case(dtype, method, auto)
            if case in tried or gone or (auto and (dynamic or self._same)) or not self._patient:
                continue
            # what is found with one recipe serves the others: looking for it costs more than trying them
            yield case, (self._kept or ("auto",)) if auto else ()

    def _lifted(self) -> Iterator[tuple[Case, tuple[str, ...]]]:
        """Of recipes that miss the bar and are cheaper than what meets it, the worst layers in float: ever more until
        the bar is met or nothing is gained; then as few as will do."""
        for start in self._missing:
            if not self._patient or not self._cheaper(start):
                return
            layers, case = self._worst(start), replace(start.case, exclude="auto")
            kept = self._kept if start.exclude == ("auto",) else start.exclude
            failed, enough = 0, None
            for count in LIFTED:
                if enough is None and count <= len(layers) // 2 and self._cheaper(self._last or start):
                    yield case, self._with(kept, layers[:count])
                    failed, enough = (failed, count) if self._enough else (count, None)
            while enough is not None and enough - failed > 1:
                middle = (failed + enough) // 2
                yield case, self._with(kept, layers[:middle])
                failed, enough = (failed, middle) if self._enough else (middle, enough)

    def _with(self, kept: tuple[str, ...], layers: list[list[str]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*kept, *(name for layer in layers for name in layer)]))

    @property
    def _missing(self) -> list[Trial]:
        """Of static trials that miss the bar, one of each dtype, the cheapest first: that whose answers keep most; and
        those alone that have not lost half of the score, where there are such."""
        missing = [
            each
            for each in self.trials
            if not (each.meets(self.max_drop) or self._method(each.case.method).dynamic)
        ]  # fmt: skip
        missing = [each for each in missing if not each.lost] or missing
        best: dict[str, Trial] = {}
        for each in sorted(missing, key=lambda each: each.kept_db):
            best[each.case.dtype] = each
        return sorted(best.values(), key=lambda each: self._costs(each)[0])

    def _cheaper(self, one: Trial) -> bool:
        """Whether it costs less than what meets the bar so far; where nothing does, all is cheap."""
        return not self._met or self.best is None or self._costs(one)[2] < (1 - SAME) * self._costs(self.best)[1]

    def _costs(self, one: Trial) -> tuple[float, float, float]:
        """What is to be small, and its interval."""
        return one.ratio if self.minimise == TIME else (float(one.size_bytes),) * 3

    @property
    def _enough(self) -> bool:
        """Whether the candidate just tried meets the bar."""
        return self._last is not None and self._last.meets(self.max_drop)

    def _case(self, dtype: str, method: str, auto: bool) -> Case:
        return Case(self.workload.name, "onnxruntime", dtype, method, "channel", "auto" if auto else NONE)

    def _method(self, name: str) -> Method:
        return self.registry.methods[name]

    def _try(self, case: Case, exclude: tuple[str, ...]) -> None:
        """Make a candidate and judge it; `out` is it when it is the best so far, or the first of all."""
        pipeline = self.pipeline(exclude)
        artifact = pipeline.artifact(case)
        if self.best is None and not self.out.exists():
            write_bytes(self.out, artifact.path.read_bytes())
        plain = replace(case, exclude=NONE)
        if exclude == ("auto",):
            self._kept = tuple(json.loads(artifact.notes.get("nodes in float", "[]")))
            self._same = not self._kept and any(each.case == plain for each in self.trials)
        if self._same and exclude == ("auto",):
            self.say(f"{case}: {artifact.notes.get('auto', 'nothing is kept in float')}; so it is {plain}")
            return
        measured = self._judged(case, exclude)
        compared, n = measured.compared, measured.compared.score.n
        gone = abs(compared.score.value - compared.fp32.value) > 0.5 * abs(compared.fp32.value)
        noise = to_db(float(self._answers.noise(artifact.path).max()))
        ratio = self._ratio(case, exclude, artifact.path, (measured.seconds["evaluate"] or 0.0) / n)
        size = artifact.size
        trial = Trial(case, exclude, compared.interval, n, noise, ratio, size, gone and compared.interval.drop > 0)
        self._last = trial
        self.trials.append(trial)
        if self._beats(trial):
            self.best = trial
            write_bytes(self.out, artifact.path.read_bytes())
        self.say(str(trial))

    def _judged(self, case: Case, exclude: tuple[str, ...]) -> Measured:
        """What a candidate loses on the half that is tuned on; on a quarter of it, where that is slow and tells."""
        if self._slow and self.pipeline(()).facts("evaluation").n >= _LEAST:
            found = self.pipeline(exclude, quick=True).measured(case, CONFIDENCE)
            quarter = found.seconds["evaluate"] or 0.0
            self._slow = quarter > SLOW
            if self._slow and found.compared.interval.low > self.max_drop:
                self.reserve = max(self.reserve, _REPORT + 12 * quarter)
                return found
        found = self.pipeline(exclude).measured(case, CONFIDENCE)
        self.reserve = max(self.reserve, _REPORT + 3 * (found.seconds["evaluate"] or 0.0))
        return found

    def _ratio(self, case: Case, exclude: tuple[str, ...], artifact: Path, each: float) -> tuple[float, float, float]:
        """Its time / the float model's; one measurement for all files that differ in numbers alone."""
        graph = load(artifact).graph
        held = sorted((each.data_type, *each.dims) for each in graph.initializer)
        same = [node.op_type for node in graph.node], held
        for known, found in self._ratios:
            if known == same:
                return found
        pipeline = self.pipeline(exclude)
        step = Time(pipeline, case, pipeline.fixed_batch or self.batch, each)
        value, low, high = json.loads(self.store.get(step).path.read_text())
        self._ratios.append((same, (value, low, high)))
        return value, low, high

    def _beats(self, one: Trial) -> bool:
        """Whether a trial beats the best: by meeting the bar, surely before perhaps; then by cost; of one cost, by
        fewer nodes in float, then by what is left of the answers. That comes first of two whose intervals hold the bar:
        so few samples cannot tell which of them meets it. Where none meets it, what is left of the answers decides
        unless their intervals lie apart: it is a mean over far more values than a metric has samples.
        """
        other = self.best
        if other is None:
            return True
        (mine, low, high), (theirs, lowest, highest) = self._costs(one), self._costs(other)
        alike = low <= (1 + SAME) * highest and lowest <= (1 + SAME) * high
        unsure = all(each.drop.low <= self.max_drop <= each.drop.high for each in (one, other))
        peers, gain = alike and one.exclude == other.exclude, one.kept_db - other.kept_db
        fits, fitted = one.sure(self.max_drop), other.sure(self.max_drop)
        apart = one.drop.low > other.drop.high or other.drop.low > one.drop.high
        if peers and unsure and abs(gain) > CLEAR_DB:
            return gain > 0
        if fits != fitted or (not fits and apart):
            return fits > fitted or (fits == fitted and one.drop.drop < other.drop.drop)
        if not fits and abs(gain) > (0.0 if peers else CLEAR_DB):
            return gain > 0
        if not alike:
            return mine < theirs
        return (-len(one.exclude), one.kept_db) > (-len(other.exclude), other.kept_db)

    def _worst(self, trial: Trial) -> list[list[str]]:
        """Layers in integer with what must be in float with them, by what they lose, the worst first; measured without
        labels on calibration samples."""
        pipeline = self.pipeline(trial.exclude)
        model, samples = pipeline.passes_of(trial.case).prepared.path, pipeline.passes_of(trial.case).checked
        errors = rank(model, pipeline.artifact(trial.case).path, samples, 2 if self._large else 8)
        graph = Scales(model, pipeline.source.onnx)
        return [with_readers(graph, each) for each in errors if each.integer]

    @cached_property
    def _large(self) -> bool:
        return activation_bytes(load(self.pipeline(()).passes.prepared.path)) > LARGE

    @cached_property
    def _answers(self) -> Answers:
        """The float model's answers on a few calibration samples."""
        passes = self.pipeline(()).passes
        model = passes.prepared.path
        return Answers(model, spread(passes.checked, 12 if self._large else 8, fixed_batch(load(model))))
