"""Verdict: a measurement held against its bar. Pure functions, one-sided: better never fails.

Accuracy
    ``fail``        value under `floor` or over `ceiling`, agreement, SQNR or cosine with FP32 under its least, or
                    drop > max_drop. Point values decide: the same samples always give the same verdict, so there is
                    nothing to flake.
    ``unresolved``  the interval of the drop straddles `max_drop`, so these samples cannot tell; and the point values
                    pass, or the bar sets `confidence`. Red only when it does; the reason says how many samples would
                    resolve it.
    ``pass``        otherwise. Where `max_drop` is set, the whole interval lies within it.
    A floor is on the value itself, so it has no interval; without `max_drop` there is no `unresolved`.
Latency
    The interval of the time ratio is the measurement: within the bar ``pass``, beyond it ``fail``, astride
    ``unresolved``, which is red only when the bar sets `confidence`.
Structure
    ``fail`` when the integer share is under `min_integer_share`.

A gate that the bar lists in `expected_failure` turns nothing red; the reason says so, or that it no longer fails. `isa`
is what `ptq.engine.environment.instruction_sets` says: some failures are expected on some CPUs only.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from ptq.backends.protocol import Census
from ptq.engine.score import Compared
from ptq.gate.bars import Bar
from ptq.latency.ratio import Ratio
from ptq.metrics.interval import Interval
from ptq.metrics.metric import SHARE, Metric, Score
from ptq.metrics.paired import images_to_resolve

PASS, FAIL, UNRESOLVED = "pass", "fail", "unresolved"
COLLAPSED = "; collapsed: "
"""What the reason of an expected failure has where nothing is left of the model."""
CONFIDENCE = 0.95
"""Of the intervals of a bar that sets none."""
NOTHING_LEFT = 0.02
"""Share of what the float model is above chance that a collapsed model has left at most."""


@dataclass(frozen=True)
class Verdict:
    """`name` is ``pass``, ``fail`` or ``unresolved``, `reason` one line, `red` whether the test fails by it."""

    name: str
    reason: str
    red: bool


def judge_accuracy(
    case_id: str, metric: Metric, found: Compared, bar: Bar, isa: Collection[str] = (), truth: bool = True
) -> Verdict:
    """The verdict on what a case scored; `found.interval` is at ``bar.confidence or CONFIDENCE``.

    Without a `truth` the float model's own answers were it, which the reason says.
    """
    score, fp32, interval = found.score, found.fp32, found.interval
    says = "" if truth else "; no truth was given: the float model's own answers are the truth"
    fell = "drop" if metric.higher_is_better else "rise"
    against = f"fp32 {_value(fp32.value, metric)}, {fell} {_change(interval.drop, metric)}, n={score.n}"

    def verdict(name: str, line: str, red: bool) -> Verdict:
        if name == FAIL and bar.expects("accuracy", isa) is not None:
            line += _collapse(metric, found)
        return _expected("accuracy", bar, isa, Verdict(name, f"{case_id}: {line}{says}", red))

    if failures := _under(metric, found, bar):
        return verdict(FAIL, f"{', '.join(failures)} ({against})", True)
    if bar.max_drop is None:
        return verdict(PASS, f"{metric.name} {_value(score.value, metric)} ({against})", False)
    straddles = interval.low <= bar.max_drop < interval.high
    drop, most = _apart(interval.drop, bar.max_drop, metric, 2)
    unit = "pp" if metric.unit == SHARE else metric.unit
    scores = f"{metric.name} {_value(score.value, metric)}, fp32 {_value(fp32.value, metric)}"
    facts = f"{scores}, {_interval(interval, metric)}, n={score.n}"
    if interval.drop > bar.max_drop and not (straddles and bar.confidence is not None):
        return verdict(FAIL, f"{fell} {drop} {unit} > max_drop {most} {unit} ({facts})", True)
    if straddles:
        needed = images_to_resolve(interval, score.n, bar.max_drop)
        remedy = f"about {needed} images would resolve it" if needed else f"the {fell} is the bar: no images resolve it"
        line = f"max_drop {most} {unit} is inside {_interval(interval, metric)} of a {fell} of {drop} {unit}"
        return verdict(UNRESOLVED, f"{line}: {remedy} ({scores}, n={score.n})", bar.confidence is not None)
    return verdict(PASS, f"{fell} {drop} {unit} <= max_drop {most} {unit} ({facts})", False)


def judge_ratio(case_id: str, ratio: Ratio, bar: Bar, isa: Collection[str] = ()) -> Verdict:
    """The verdict on a time ratio against FP32 or against another artifact; `PASS` when the bar sets none."""
    most = bar.ratio
    measured = (
        f"{ratio.value:.3f} ({100 * ratio.confidence:g} % [{ratio.low:.3f}, {ratio.high:.3f}], {ratio.rounds} rounds, "
        f"{ratio.reference_ms:.3g} ms against {ratio.other_ms:.3g} ms)"
    )
    if most is None:
        return Verdict(PASS, f"{case_id}: time ratio {measured}, no bar set", red=False)
    if ratio.high <= most:
        return _expected(
            "latency", bar, isa, Verdict(PASS, f"{case_id}: time ratio {measured} <= {most:.3f}", red=False)
        )
    if ratio.low > most:
        return _expected("latency", bar, isa, Verdict(FAIL, f"{case_id}: time ratio {measured} > {most:.3f}", red=True))
    line = f"{case_id}: {most:.3f} is inside the interval of the time ratio {measured}: a quieter machine or more time"
    return _expected(
        "latency", bar, isa, Verdict(UNRESOLVED, f"{line} would resolve it", red=bar.confidence is not None)
    )


def judge_structure(case_id: str, census: Census, bar: Bar, isa: Collection[str] = ()) -> Verdict:
    """The verdict on what really runs."""
    kinds = sorted({*census.integer, *census.floating})
    whole = {kind: census.integer.get(kind, 0) + census.floating.get(kind, 0) for kind in kinds}
    counts = ", ".join(f"{census.integer.get(kind, 0)} of {whole[kind]} {kind}" for kind in kinds)
    share = f"{sum(census.integer.values())} of {sum(whole.values())} compute nodes in integer: {counts}"
    if bar.min_integer_share is None or census.integer_share >= bar.min_integer_share:
        return _expected("structure", bar, isa, Verdict(PASS, f"{case_id}: {share}", red=False))
    if census.simulated is not None:
        why = f"simulated: {census.simulated}"
    else:
        shown = ", ".join(census.float_nodes[:5]) + (", ..." if len(census.float_nodes) > 5 else "")
        why = f"in float: {shown}; {census.stray} stray Q/DQ" + (
            f"; likely cause: {census.cause}" if census.cause else ""
        )
    have, want = _digits(census.integer_share, bar.min_integer_share, 2)
    line = f"{case_id}: integer share {have} < min_integer_share {want} ({share}; {why})"
    return _expected("structure", bar, isa, Verdict(FAIL, line, red=True))


def _under(metric: Metric, found: Compared, bar: Bar) -> list[str]:
    """What the point values fail, in words."""
    value, failures = found.score.value, []
    if bar.floor is not None and value < bar.floor:
        have, want = _apart(value, bar.floor, metric, 4)
        failures.append(f"{metric.name} {have} < floor {want}")
    if bar.ceiling is not None and value > bar.ceiling:
        have, want = _apart(value, bar.ceiling, metric, 4)
        failures.append(f"{metric.name} {have} > ceiling {want}")
    if bar.min_agreement is not None and found.agreement is not None and found.agreement < bar.min_agreement:
        have, want = _digits(found.agreement, bar.min_agreement, 4)
        failures.append(f"agreement with fp32 {have} < min_agreement {want}")
    if bar.min_sqnr_db is not None and found.sqnr_db is not None and found.sqnr_db < bar.min_sqnr_db:
        have, want = _digits(found.sqnr_db, bar.min_sqnr_db, 1)
        failures.append(f"SQNR {have} dB < min_sqnr_db {want} dB")
    if bar.min_cosine is not None and found.cosine is not None and found.cosine < bar.min_cosine:
        have, want = _digits(found.cosine, bar.min_cosine, 4)
        failures.append(f"mean cosine to fp32 {have} < min_cosine {want}")
    return failures


def by_chance(metric: Metric, fp32: Score) -> str:
    """That the float model knows nothing by a metric that says what chance is; top-1 is looked at more closely, see
    `ptq.checks.float_accuracy.fault`.
    """
    if fp32.chance is None or not metric.higher_is_better or fp32.value > fp32.chance:
        return ""
    return (
        f"the float model's {metric.name} is {_value(fp32.value, metric)} on {fp32.n} samples, no better than chance "
        f"({_value(fp32.chance, metric)}); likely cause: inputs in another range or order than it was trained on, or "
        "outputs decoded otherwise than they are meant"
    )


def _collapse(metric: Metric, found: Compared) -> str:
    """That nothing is left of the model, where it has: a known loss of some points is no licence for that."""
    score, fp32 = found.score, found.fp32
    if score.chance is None or not metric.higher_is_better:
        return ""
    by_luck = 4 * math.sqrt(score.chance * (1 - score.chance) / score.n) if metric.unit == SHARE else 0.0
    if fp32.value <= score.chance + by_luck:
        return ""
    most = score.chance + max(NOTHING_LEFT * (fp32.value - score.chance), by_luck / 2)
    parts = [f"{metric.name} {_value(score.value, metric)}"] if score.value <= most else []
    if metric.unit == SHARE and found.agreement is not None and found.agreement <= most:
        parts.append(f"agreement with fp32 {found.agreement:.4f}")
    return f"{COLLAPSED}{', '.join(parts)}, no better than chance ({_value(score.chance, metric)})" if parts else ""


def _expected(gate: str, bar: Bar, isa: Collection[str], verdict: Verdict) -> Verdict:
    if (words := bar.expects(gate, isa)) is None:
        return verdict
    if verdict.name == PASS:
        entry = f"{gate}{words.removeprefix('expected')}"
        return replace(
            verdict,
            reason=f"{verdict.reason}; no longer fails: {entry!r} can leave expected_failure of {bar.pattern!r}",
        )
    return replace(verdict, reason=f"{verdict.reason}; {words}: {bar.why}", red=False)


def _value(value: float, metric: Metric) -> str:
    return f"{value:.4f}" if metric.unit == SHARE else f"{value:.4g} {metric.unit}"


def _change(change: float, metric: Metric) -> str:
    return f"{change:.2f} pp" if metric.unit == SHARE else f"{change:.4g} {metric.unit}"


def _interval(interval: Interval, metric: Metric) -> str:
    kind, unit = (".2f", "pp") if metric.unit == SHARE else (".4g", metric.unit)
    return f"{100 * interval.confidence:g} % [{interval.low:{kind}}, {interval.high:{kind}}] {unit}"


def _apart(value: float, bar: float, metric: Metric, digits: int) -> tuple[str, str]:
    """Both as `_digits` has them, with `digits` decimals for a share; other units have other magnitudes."""
    return _digits(value, bar, digits) if metric.unit == SHARE else _digits(value, bar, 4, "g")


def _digits(value: float, bar: float, digits: int, kind: str = "f") -> tuple[str, str]:
    """Both numbers with so many digits, or with as many more as tell them apart."""
    while value != bar and digits < 17 and f"{value:.{digits}{kind}}" == f"{bar:.{digits}{kind}}":
        digits += 1
    return f"{value:.{digits}{kind}}", f"{bar:.{digits}{kind}}"
