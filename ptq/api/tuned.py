"""tune: the fastest, or the smallest, quantized model that meets a bar, found within a number of seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptq.api.evaluation import metric_of
from ptq.api.model_file import AnyPath, converted, existing, name_of
from ptq.api.quantized import inputs_of
from ptq.data.part import part
from ptq.data.pictures import ImageOptions
from ptq.data.samples import Samples
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import NoData, PtqError
from ptq.metrics.interval import Interval
from ptq.metrics.metric import SHARE, Metric
from ptq.models.onnx_file import signature
from ptq.tuning.bar import CONFIDENCE, Bar
from ptq.tuning.deadline import Deadline
from ptq.tuning.search import Search
from ptq.tuning.space import SIZE, TIME
from ptq.tuning.trial import Trial

SCHEMA = "ptq-tune/1"


@dataclass(frozen=True)
class Tuned(os.PathLike[str]):
    """What `tune` found: usable wherever a path is.

    `path` is the file and `best` how it was made; `drop` is what it loses on the `n` samples that the search has not
    seen, in `unit`, None where the seconds ended before that was measured, `value` what it scores there; `met` says
    whether that meets the `bar`. `trials` are all that was tried, `ended` says why no more was; `float_bytes` is the
    float model's size.
    """

    path: Path
    best: Trial
    met: bool
    drop: Interval | None
    value: float | None
    n: int
    unit: str
    bar: Bar
    trials: tuple[Trial, ...]
    ended: str
    float_bytes: int

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def sentence(self) -> str:
        """What was bought with what."""
        case, (value, low, high) = self.best.case, self.best.ratio
        bought = f"{self.path}: {case}: {value:.3f} [{low:.3f}, {high:.3f}] of the float model's time and "
        bought += f"{self.best.size_bytes / self.float_bytes:.2f} of its {self.float_bytes:,} bytes"
        if self.drop is None:
            return f"{bought}; not measured on samples that the search has not seen: call again, with more seconds"
        drop, max_drop = self.drop, self.bar.max_drop
        if max_drop is None:
            says = f"{'meets' if self.met else 'misses'} {self.bar}"
            return f"{bought}, with a value of {self.value:.4g} on {self.n} samples not tuned on: {says}"
        bar = f"max_drop {max_drop:g} {self.unit}"
        says = f"meets {bar}" if self.met else f"misses {bar} by {drop.drop - max_drop:.3g}"
        interval = f"{100 * drop.confidence:g} % [{drop.low:+.3g}, {drop.high:+.3g}]"
        seen = f"({interval}) on {self.n} samples not tuned on"
        return f"{bought}, for a drop of {drop.drop:+.3g} {self.unit} {seen}: {says}"

    def __str__(self) -> str:
        case, kept = self.best.case, ", ".join(f'"{name}"' for name in self.best.exclude)
        exclude = f", exclude=({kept},)" if kept else ""
        found = "not measured" if self.drop is None else f"drop {self.drop.drop:+.3g} {self.unit} on {self.n} samples"
        if self.bar.floor is not None and self.value is not None:
            found = f"{self.value:.4g} on {self.n} samples"
        return "\n".join(
            (
                self.sentence,
                f"{len(self.trials)} tried, {self.ended}",
                "# conftest.py, in the Workload:",
                f'artifacts={{"tuned": ptq.Artifact("onnxruntime", "{case.dtype}", "{self.path}")}},',
                f'# made by ptq.quantize(MODEL, CALIBRATION, dtype="{case.dtype}", method="{case.method}", '
                f'granularity="{case.granularity}"{exclude})',
                "# bars.toml:",
                f'["{case.workload}-onnxruntime-{case.dtype}-tuned"]',
                str(self.bar),
                f"max_ratio = {max(0.01, 1.05 * self.best.ratio[2]):.2f}",
                f'why = "found by ptq tune: {found} it had not seen"',
            )
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON: ``schema, sentence, best, met, drop, n, unit, max_drop, value, floor, ended, trials, text``."""
        drop = None if self.drop is None else [self.drop.drop, self.drop.low, self.drop.high]
        return {
            "schema": SCHEMA,
            "sentence": self.sentence,
            "text": str(self).partition("\n")[2],
            "best": self.best.as_json(),
            "met": self.met,
            "drop": drop,
            "n": self.n,
            "unit": self.unit,
            "max_drop": self.bar.max_drop,
            "floor": self.bar.floor,
            "value": self.value,
            "ended": self.ended,
            "trials": [each.as_json() for each in self.trials],
        }


def tune(
    model: AnyPath,
    calibration: Any,
    data: Any,
    targets: Any = None,
    *,
    max_drop: float | None = None,
    floor: float | None = None,
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
    floor: in its place, the least value of the metric. Where no truth is given and the model is no classifier, the
        metric is the SQNR in dB against the float model's answers, of which only a floor can be asked.
    out: the .onnx file; the best so far is in it whenever the search ends, or is ended, by SIGKILL too.
    metric: as `evaluate` takes it.
    minimise: ``time``, at `batch` samples a call, or ``size``.
    seconds: until there is an answer. What is under way then is ended; time to measure the best on unseen samples is
        set aside.
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
    return tune_workload(workload, Bar(max_drop, floor), Path(out), minimise, batch, seconds, store, registry)


def tune_workload(
    workload: Workload, bar: Bar, out: Path, minimise: str, batch: int, seconds: float,
    store: Store, registry: Registry, say: Callable[[str], None] = lambda line: None,
) -> Tuned:  # fmt: skip
    """`tune` of a workload; `say` is given a line for every candidate."""
    if minimise not in (TIME, SIZE):
        raise PtqError(f"minimise={minimise!r}, but should be {TIME!r} or {SIZE!r}")
    if out.suffix != ".onnx":
        raise PtqError(f"{out}: ends in {out.suffix!r}, but should end in '.onnx'")
    deadline, given = Deadline(seconds), workload.evaluation
    whole: Samples = given() if callable(given) else given
    group = workload.metric.group if workload.metric else 1
    halves = [replace(workload, evaluation=part(whole, which, group)) for which in (0, 1)]
    try:
        with deadline.held():
            allowed = bar.allowed(Pipeline(halves[0], store, registry))
    except KeyboardInterrupt:
        over = f"the {seconds:g} seconds ended" if deadline.left == 0 else "interrupted"
        raise NoData(f"{out}: no artifact was made yet: {over} before the float model was judged") from None
    search = Search(halves[0], store, registry, allowed, minimise, batch, deadline, out, say)
    ended = search.run()
    best = search.best
    if best is None:
        left = f"{out} is a candidate that was not judged" if out.exists() else f"{out}: no artifact was made yet"
        raise NoData(f"{left}: {ended} before the first candidate was; a second call goes on from there")
    reported = Pipeline(replace(halves[1], exclude=best.exclude or ("auto",)), store, registry)
    drop, value, n, unit = None, None, 0, "pp" if reported.metric.unit == SHARE else reported.metric.unit
    try:
        with deadline.held():
            found = reported.measured(best.case, CONFIDENCE).compared
            drop, value, n = found.interval, found.score.value, found.score.n
            allowed = bar.allowed(reported)
    except KeyboardInterrupt:
        say("ended before the best was measured on samples that the search has not seen")
    met, trials = drop is not None and drop.drop <= allowed, tuple(search.trials)
    return Tuned(out, best, met, drop, value, n, unit, bar, trials, ended, reported.source.onnx.stat().st_size)
