"""tune: the fastest, or the smallest, quantized model that meets a bar, found within a number of seconds."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptq.api.evaluation import metric_of
from ptq.api.model_file import AnyPath, converted, existing, name_of
from ptq.api.quantized import inputs_of, saturates
from ptq.cases import NONE, Case
from ptq.data.part import part
from ptq.data.pictures import ImageOptions
from ptq.data.samples import Samples, first_batch
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import Registry, reference_case
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import NoData, PtqError, Unsupported
from ptq.files import write_bytes
from ptq.latency.ratio import Budget, Ratio, measure_ratio
from ptq.metrics.interval import Interval
from ptq.metrics.metric import SHARE, Metric
from ptq.models.onnx_file import signature
from ptq.sensitivity.rank import rank

TIME, SIZE = "time", "size"
_LIFTED = (1, 2, 4, 8, 16)
"""How many of the worst layers are kept in float, one trial after the other."""
_METHODS = ("percentile", "mse_gptq", "mse")
_FEW_BITS = (("u8s4", "mse_gptaq"), ("u8s4_edge8", "mse_gptaq"))
_CONFIDENCE = 0.95
_TIMED = Budget(seconds=3.0)


@dataclass(frozen=True)
class Trial:
    """One candidate: its case, the nodes kept in float, and what it gave on the half that is tuned on.

    `drop` is against the float model, in percentage points or the metric's unit, `sqnr_db` that of the outputs; `ratio`
    is its time / the float model's.
    """

    case: Case
    exclude: tuple[str, ...]
    drop: Interval
    sqnr_db: float
    ratio: float
    size_bytes: int

    def __str__(self) -> str:
        kept = f", in float: {', '.join(self.exclude)}" if self.exclude else ""
        gave = f"drop {self.drop.drop:+.2f}, {self.sqnr_db:.1f} dB, time ratio {self.ratio:.3f}"
        return f"{self.case}: {gave}, {self.size_bytes:,} bytes{kept}"


@dataclass(frozen=True)
class Tuned(os.PathLike[str]):
    """What `tune` found: usable wherever a path is.

    `path` is the file and `best` how it was made; `met` says whether the bar, `max_drop`, holds on the `n` samples that
    the search has not seen; `drop` is theirs, in `unit`. `trials` are all that was tried, `ended` says why no more was.
    """

    path: Path
    best: Trial
    met: bool
    drop: Interval
    n: int
    unit: str
    max_drop: float
    trials: tuple[Trial, ...]
    ended: str

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        unit = "pp" if self.unit == SHARE else self.unit
        what, drop = "meets" if self.met else "misses", self.drop
        nodes = ", ".join(f'"{name}"' for name in self.best.exclude)
        kept = f"exclude=({nodes},)  # of the Workload" if nodes else "nothing in float"
        return "\n".join(
            (
                f"{self.path}: {self.best.case}, {self.best.ratio:.3f} of the float model's time, "
                f"{self.best.size_bytes:,} bytes",
                f"{what} max_drop {self.max_drop:g} {unit} on {self.n} samples that the search has not seen: drop "
                f"{drop.drop:+.2f} ({100 * drop.confidence:g} % [{drop.low:+.2f}, {drop.high:+.2f}])",
                f"{len(self.trials)} tried, {self.ended}; {kept}",
                f'["{self.best.case}"]',
                f"max_drop = {self.max_drop:g}",
                f'why = "found by ptq tune: drop {drop.drop:+.2f} {unit} on {self.n} samples it had not seen"',
            )
        )


def tune(
    model: AnyPath,
    calibration: Any,
    data: Any,
    targets: Any = None,
    *,
    max_drop: float,
    out: AnyPath,
    metric: Metric | str | None = None,
    minimise: str = TIME,
    batch: int = 1,
    seconds: float = 600.0,
    images: ImageOptions | None = None,
    store: Store | None = None,
    registry: Registry | None = None,
) -> Tuned:
    """The fastest or smallest quantized model, of onnxruntime, that loses no more than `max_drop`.

    Parameters
    ----------
    model, calibration: as `quantize` takes them.
    data, targets: as `evaluate` takes them: every second one is tuned on, the others are reported.
    max_drop: largest loss against the float model: percentage points of a share, else in the metric's unit.
    out: the .onnx file; the best so far is in it whenever the search ends, or is ended.
    metric: as `evaluate` takes it.
    minimise: ``time``, at `batch` samples a call, or ``size``.
    seconds: no new candidate is begun after that.
    images: how images of a folder become inputs.
    store, registry: where what is made is kept, and the methods there are. A second call goes on from the store.

    Raises a `PtqError` of one line for whatever is not as it should be.
    """
    path, store, registry = existing(model), store or Store(), registry or Registry()
    takes = signature(converted(path, store, registry))
    seen = inputs_of(calibration, takes, images, "train", "calibration")
    judged: Any = inputs_of(data, takes, images, "test", "data")
    if targets is not None:
        judged = replace(judged, targets=np.load(targets) if isinstance(targets, str | Path) else targets)
    chosen = None if metric is None else metric_of(metric, registry)
    workload = Workload(name_of(path), path, seen, judged, metric=chosen)
    return tune_workload(workload, max_drop, Path(out), minimise, batch, seconds, store, registry)


def tune_workload(
    workload: Workload, max_drop: float, out: Path, minimise: str, batch: int, seconds: float, store: Store,
    registry: Registry, say: Callable[[str], None] = lambda line: None,
) -> Tuned:  # fmt: skip
    """`tune` of a workload; `say` is given a line for every candidate."""
    if minimise not in (TIME, SIZE):
        raise PtqError(f"minimise={minimise!r}, but should be {TIME!r} or {SIZE!r}")
    if out.suffix != ".onnx":
        raise PtqError(f"{out}: ends in {out.suffix!r}, but should end in '.onnx'")
    end = time.monotonic() + seconds
    given = workload.evaluation
    whole: Samples = given() if callable(given) else given
    halves = [replace(workload, evaluation=part(whole, which)) for which in (0, 1)]
    search = _Search(halves[0], store, registry, max_drop, minimise, batch)
    ended = "nothing more to try"
    try:
        for case, exclude in search.candidates():
            if time.monotonic() >= end:
                ended = f"the {seconds:g} seconds ended"
                break
            try:
                if search.tried(case, exclude):
                    write_bytes(out, search.pipeline(exclude).artifact(case).path.read_bytes())
                say(str(search.trials[-1]))
            except Unsupported as reason:
                say(f"{case}: {reason}")
    except KeyboardInterrupt:
        ended = "interrupted"
    best = search.best
    if best is None:
        raise NoData(
            f"{out}: no artifact was made yet: {ended} before the first candidate was; a second call goes on from there"
        )
    reported = Pipeline(replace(halves[1], exclude=best.exclude or ("auto",)), store, registry)
    found = reported.measured(best.case, _CONFIDENCE).compared
    met, trials = found.interval.drop <= max_drop, tuple(search.trials)
    return Tuned(out, best, met, found.interval, found.score.n, reported.metric.unit, max_drop, trials, ended)


class _Search:
    """The candidates of one workload, measured on the half that is tuned on, and the best of them so far."""

    def __init__(
        self, workload: Workload, store: Store, registry: Registry, max_drop: float, minimise: str, batch: int
    ) -> None:
        self.workload, self.store, self.registry = workload, store, registry
        self.max_drop, self.minimise, self.batch = max_drop, minimise, batch
        self.best: Trial | None = None
        self.trials: list[Trial] = []
        self._pipelines: dict[tuple[str, ...], Pipeline] = {}

    @property
    def met(self) -> bool:
        """Whether a candidate meets the bar."""
        return self.best is not None and self.best.drop.drop <= self.max_drop

    def candidates(self) -> Iterator[tuple[Case, tuple[str, ...]]]:
        """The cheapest answers first: fixed recipes; the same with ``auto``; then the worst layers in float."""
        name = self.workload.name
        # u8s8 is the fastest; where its kernels saturate, seven bits on the same kernels do not
        dtypes = ("u8s7" if saturates(Case(name, "onnxruntime", "u8s8", "minmax")) else "u8s8", "uint8")
        recipes = [[(dtype, method) for method in _METHODS] for dtype in dtypes]
        if self.minimise == SIZE:
            recipes.insert(0, list(_FEW_BITS))
        for exclude in ((), ("auto",)):
            for equal in recipes:  # as fast as one another, so all of them are tried
                for dtype, method in equal:
                    yield Case(name, "onnxruntime", dtype, method, "channel", "auto" if exclude else NONE), exclude
                if self.met:
                    return
        start = self.best
        layers = self._worst(start) if start is not None else []
        for count in _LIFTED:
            if start is not None and count <= len(layers) // 2 and not self.met:
                yield replace(start.case, exclude="auto"), (*start.exclude, *layers[:count])

    def tried(self, case: Case, exclude: tuple[str, ...]) -> bool:
        """Measure a candidate; whether it is the best so far."""
        pipeline = self.pipeline(exclude)
        measured = pipeline.measured(case, _CONFIDENCE)
        size = measured.artifact.path.stat().st_size
        found, ratio = measured.compared, self._ratio(pipeline, case).value
        sqnr = math.inf if found.sqnr_db is None else found.sqnr_db
        trial = Trial(case, exclude, found.interval, sqnr, ratio, size)
        self.trials.append(trial)
        if self._beats(trial):
            self.best = trial
        return self.best is trial

    def pipeline(self, exclude: tuple[str, ...]) -> Pipeline:
        """The workload with these nodes in float."""
        if exclude not in self._pipelines:
            chosen = replace(self.workload, exclude=exclude or ("auto",))
            self._pipelines[exclude] = Pipeline(chosen, self.store, self.registry)
        return self._pipelines[exclude]

    def _beats(self, one: Trial) -> bool:
        """Whether a trial beats the best: by meeting the bar, then by cost, then, within noise of that, by SQNR, which
        tells more than a drop on few samples; where none meets it, by the drop."""
        other = self.best
        if other is None:
            return True
        fits, fitted = (trial.drop.drop <= self.max_drop for trial in (one, other))
        if not (fits and fitted):
            return fits or (not fitted and one.drop.drop < other.drop.drop)
        costs = [trial.ratio if self.minimise == TIME else trial.size_bytes for trial in (one, other)]
        return costs[0] < 0.95 * costs[1] or (costs[0] <= 1.05 * costs[1] and one.sqnr_db > other.sqnr_db)

    def _worst(self, trial: Trial) -> list[str]:
        """Layers in integer by what they lose, the worst first, measured without labels on calibration samples."""
        pipeline = self.pipeline(trial.exclude)
        passes = pipeline.passes
        errors = rank(passes.prepared.path, pipeline.artifact(trial.case).path, passes.checked)
        return [node for _, node in sorted((min(each.local, each.even), each.node) for each in errors if each.integer)]

    def _ratio(self, pipeline: Pipeline, case: Case) -> Ratio:
        inputs = first_batch(pipeline.evaluation_samples, pipeline.fixed_batch or self.batch)
        reference = pipeline.predictor(reference_case(case.workload))
        return measure_ratio(reference, pipeline.predictor(case), inputs, budget=_TIMED)
