"""Evaluation: how good a model file is, and how it compares with another on the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ptq.api.model_file import AnyPath, ModelFile
from ptq.api.quantized import Quantized, inputs_of
from ptq.api.text import printable
from ptq.backends.protocol import Census
from ptq.data.inputs import is_object, load_object, with_targets
from ptq.data.pictures import ImageOptions
from ptq.data.samples import Samples, labels_of
from ptq.engine.registry import Registry
from ptq.engine.sample_set import SampleSet
from ptq.engine.score import TrueByReference
from ptq.engine.store import Store
from ptq.errors import BadData, NoData, PtqError
from ptq.latency.race import executed
from ptq.metrics.fidelity import Agreement, Fidelity, fidelity_for
from ptq.metrics.interval import Interval
from ptq.metrics.metric import SHARE, Metric, Score
from ptq.metrics.top1 import Top1


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model scored.

    `metric` is the metric's name and `unit` its unit; `score` what the model got. `truth` is ``given``, or
    ``baseline`` where there were no targets: then the baseline's answers are the truth. `census` is what its runtime
    executes. Beside a `baseline`: `baseline_score`, the `interval` of the drop, the share of equal decisions
    `agreement` (None where decisions cannot be matched), and `sqnr_db` (None for outputs that are equal to the bit).
    """

    model: str
    metric: str
    unit: str
    score: Score
    census: Census
    truth: str = "given"
    baseline: str | None = None
    baseline_score: Score | None = None
    interval: Interval | None = None
    agreement: float | None = None
    sqnr_db: float | None = None

    @property
    def integer_share(self) -> float:
        """Integer compute nodes / all compute nodes, 0..1."""
        return self.census.integer_share

    def __str__(self) -> str:
        lines = [f"{self.model}: {self.metric} {self._value(self.score)}, n={self.score.n}"]
        more = [] if self.agreement is None else [f"agreement {self.agreement:.4f}"]
        more.append(f"SQNR {'inf' if self.sqnr_db is None else f'{self.sqnr_db:.1f}'} dB")
        if self.truth != "given":
            lines.append(f"no truth was given: the answers of {self.baseline} are the truth; {', '.join(more)}")
        elif self.baseline_score is not None and (drop := self.interval) is not None:
            unit = "pp" if self.unit == SHARE else self.unit
            lines.append(
                f"baseline {self.baseline}: {self._value(self.baseline_score)}, drop {drop.drop:+.2f} {unit} "
                f"({100 * drop.confidence:g} % interval {drop.low:+.2f} .. {drop.high:+.2f}), {', '.join(more)}"
            )
        lines.append(f"integer share {self.integer_share:.2f} ({executed(self.census)})")
        return "\n".join(map(printable, lines))

    def _value(self, score: Score) -> str:
        counted = "" if score.correct is None else f" ({score.correct}/{score.n})"
        return f"{score.value:.4f}{'' if self.unit == SHARE else f' {self.unit}'}{counted}"


def evaluate(
    model: AnyPath,
    inputs: Any,
    targets: Any = None,
    *,
    baseline: AnyPath | None = None,
    metric: Metric | str | None = None,
    confidence: float = 0.95,
    backend: str | None = None,
    images: ImageOptions | None = None,
    store: Store | None = None,
    registry: Registry | None = None,
) -> Evaluation:
    """Score a model file on inputs, and against another model file where one is given.

    Parameters
    ----------
    model: any model or artifact a backend runs (.onnx, .tflite, .pt, .pt2e), a Keras file, a SavedModel folder, or what
        `quantize` returned.
    inputs: as `quantize` takes them.
    targets: the truth, one entry a sample, or the path of an .npy file; None: what the inputs bring along, else none.
    baseline: the float model, usually.
    metric: a `Metric`, its name, or ``file.py:name``; None: top-1 for class indices, and without targets agreement with
        the baseline for a classifier that returns probabilities, else SQNR.
    confidence: of the interval of the drop.
    backend: the runtime of `model`, where its suffix does not tell.
    images: how images of a folder become inputs.
    store, registry: where what is made is kept, and the backends and metrics there are.

    Raises a `PtqError` of one line for whatever is not as it should be.
    """
    store, registry = store or Store(), registry or Registry()
    named = model.case.backend if isinstance(model, Quantized) and backend is None else backend
    ours = ModelFile.open(model, store, registry, named)
    theirs = None if baseline is None else ModelFile.open(baseline, store, registry)
    signature = (theirs or ours).signature
    samples = with_targets(inputs_of(inputs, signature, images, "test", "inputs"), targets)
    held = SampleSet("inputs", samples, store)
    chosen = None if metric is None else metric_of(metric, registry)
    if chosen is None and samples.targets is not None:
        chosen = _for_targets(samples, registry)
    by_baseline = samples.targets is None or isinstance(chosen, Agreement | Fidelity)
    if by_baseline and theirs is None:
        raise NoData(
            f"{ours.path.name}: neither targets nor a baseline, but one is needed to judge by: give the truth "
            "(targets=, --targets) or the float model (baseline=, --baseline)"
        )
    if by_baseline and chosen is not None and not isinstance(chosen, Agreement | Fidelity):
        raise NoData(f"metric {chosen.name}: there are no targets, but it needs the truth: give targets= (--targets)")
    if theirs is None:
        assert chosen is not None  # else there would be a baseline
        said = ours.predictions(held, chosen, signature)
        return _result(ours, chosen, chosen.score(said, samples))
    if chosen is None:
        chosen = fidelity_for(theirs.predictions(held, Metric(), signature))
    said, other = (model.predictions(held, chosen, signature) for model in (ours, theirs))
    judged: Any = TrueByReference(samples, other) if by_baseline else samples
    return _result(
        ours,
        chosen,
        chosen.score(said, judged),
        truth="baseline" if by_baseline else "given",
        baseline=theirs.path.name,
        baseline_score=chosen.score(other, judged),
        interval=chosen.drop(said, other, judged, confidence),
        agreement=chosen.agreement(said, other),
        sqnr_db=chosen.sqnr_db(said, other),
    )


def metric_of(metric: Metric | str, registry: Registry) -> Metric:
    """The metric: as it is, by its name, or by ``file.py:name``; `PtqError` names those there are."""
    if not isinstance(metric, str):
        return metric
    if metric not in registry.metrics and not is_object(metric):
        raise PtqError(
            f"metric {metric!r} is not known: it should be one of {', '.join(registry.metrics)}, or file.py:name"
        )
    found = load_object(metric) if is_object(metric) else registry.metrics[metric]
    try:
        made = found() if isinstance(found, type) else found
    except TypeError as error:
        raise PtqError(f"metric {metric}: {error}: give it as file.py:name, made with what it needs") from error
    if not isinstance(made, Metric):
        raise PtqError(f"metric {metric}: a {type(made).__name__}, but should derive from ptq.Metric")
    return made


def _for_targets(samples: Samples, registry: Registry) -> Metric:
    if labels_of(samples) is None:
        targets = samples.targets
        kind = getattr(targets, "dtype", type(targets).__name__)
        raise BadData(
            f"targets are {kind} of shape {getattr(targets, 'shape', '?')}, "
            f"but top1 needs class indices, integers of shape ({len(samples)},): give those, or name a metric "
            f"({', '.join(registry.metrics)}, or file.py:name)"
        )
    return Top1()


def _result(model: ModelFile, metric: Metric, score: Score, **more: Any) -> Evaluation:
    return Evaluation(model.path.name, metric.name, metric.unit, score, model.census, **more)
