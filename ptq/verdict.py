"""Verdict: a measurement held against its bar. Pure functions, one-sided: better never fails.

Accuracy
    ``fail``        value < floor, or drop > max_drop. Point values decide: the same images always give the same
                    verdict, so there is nothing to flake.
    ``unresolved``  the interval of the drop straddles `max_drop`, so these images cannot tell; and the point values
                    pass, or the bar sets `confidence`. Red only when it does; the reason says how many images would
                    resolve it.
    ``pass``        otherwise. Where `max_drop` is set, the whole interval lies within it.
    A floor is on the value itself, so it has no interval; without `max_drop` there is no `unresolved`.
Latency
    The interval of the time ratio is the measurement: within the bar ``pass``, beyond it ``fail``, astride
    ``unresolved``, which is red only when the bar sets `confidence`.
Structure
    ``fail`` when the integer share is under `min_integer_share`.

A gate that the bar lists in `expected_failure` turns nothing red; the reason says so, or that it no longer fails.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ptq.backends.protocol import Census
from ptq.bars import Bar
from ptq.latency import Ratio
from ptq.metrics.metric import Interval, Score
from ptq.metrics.paired import images_to_resolve

PASS, FAIL, UNRESOLVED = "pass", "fail", "unresolved"
CONFIDENCE = 0.95
"""Of the intervals of a bar that sets none."""


@dataclass(frozen=True)
class Verdict:
    """`name` is ``pass``, ``fail`` or ``unresolved``, `reason` one line, `red` whether the test fails by it."""

    name: str
    reason: str
    red: bool


def judge_accuracy(
    case_id: str, metric: str, score: Score, fp32: Score | None, interval: Interval | None, bar: Bar
) -> Verdict:
    """The verdict on a score.

    `fp32` and `interval` (of the drop, at ``bar.confidence or CONFIDENCE``) are None for the float case itself, which
    has only a floor to meet.
    """
    against = "" if fp32 is None or interval is None else f"fp32 {fp32.value:.4f}, drop {interval.drop:.2f} pp, "
    if bar.floor is not None and score.value < bar.floor:
        value, floor = _apart(score.value, bar.floor, 4)
        return _expected(
            "accuracy",
            bar,
            Verdict(FAIL, f"{case_id}: {metric} {value} < floor {floor} ({against}n={score.n})", red=True),
        )
    if bar.max_drop is None or interval is None or fp32 is None:
        return _expected(
            "accuracy", bar, Verdict(PASS, f"{case_id}: {metric} {score.value:.4f} ({against}n={score.n})", red=False)
        )
    straddles = interval.low <= bar.max_drop < interval.high
    drop, most = _apart(interval.drop, bar.max_drop, 2)
    facts = f"{metric} {score.value:.4f}, fp32 {fp32.value:.4f}, {_interval(interval)}, n={score.n}"
    if interval.drop > bar.max_drop and not (straddles and bar.confidence is not None):
        return _expected(
            "accuracy", bar, Verdict(FAIL, f"{case_id}: drop {drop} pp > max_drop {most} pp ({facts})", red=True)
        )
    if straddles:
        needed = images_to_resolve(interval, score.n, bar.max_drop)
        remedy = f"about {needed} images would resolve it" if needed else "the drop is the bar: no images resolve it"
        line = f"{case_id}: max_drop {most} pp is inside {_interval(interval)} of a drop of {drop} pp"
        fact = f"{metric} {score.value:.4f}, fp32 {fp32.value:.4f}, n={score.n}"
        return _expected(
            "accuracy", bar, Verdict(UNRESOLVED, f"{line}: {remedy} ({fact})", red=bar.confidence is not None)
        )
    return _expected(
        "accuracy", bar, Verdict(PASS, f"{case_id}: drop {drop} pp <= max_drop {most} pp ({facts})", red=False)
    )


def judge_ratio(case_id: str, ratio: Ratio, bar: Bar) -> Verdict:
    """The verdict on a time ratio against FP32 or against another artifact; `PASS` when the bar sets none."""
    most = bar.ratio
    measured = (
        f"{ratio.value:.3f} ({100 * ratio.confidence:g} % [{ratio.low:.3f}, {ratio.high:.3f}], {ratio.rounds} rounds, "
        f"{ratio.reference_ms:.3g} ms against {ratio.other_ms:.3g} ms)"
    )
    if most is None:
        return Verdict(PASS, f"{case_id}: time ratio {measured}, no bar set", red=False)
    if ratio.high <= most:
        return _expected("latency", bar, Verdict(PASS, f"{case_id}: time ratio {measured} <= {most:.3f}", red=False))
    if ratio.low > most:
        return _expected("latency", bar, Verdict(FAIL, f"{case_id}: time ratio {measured} > {most:.3f}", red=True))
    line = f"{case_id}: {most:.3f} is inside the interval of the time ratio {measured}: a quieter machine or more time"
    return _expected("latency", bar, Verdict(UNRESOLVED, f"{line} would resolve it", red=bar.confidence is not None))


def judge_structure(case_id: str, census: Census, bar: Bar) -> Verdict:
    """The verdict on what really runs."""
    kinds = sorted({*census.integer, *census.floating})
    whole = {kind: census.integer.get(kind, 0) + census.floating.get(kind, 0) for kind in kinds}
    each = ", ".join(f"{census.integer.get(kind, 0)} of {whole[kind]} {kind}" for kind in kinds)
    share = f"{sum(census.integer.values())} of {sum(whole.values())} compute nodes in integer: {each}"
    if bar.min_integer_share is None or census.integer_share >= bar.min_integer_share:
        return _expected("structure", bar, Verdict(PASS, f"{case_id}: {share}", red=False))
    if census.simulated is not None:
        why = f"simulated: {census.simulated}"
    else:
        shown = ", ".join(census.float_nodes[:5]) + (", ..." if len(census.float_nodes) > 5 else "")
        why = f"in float: {shown}; {census.stray} stray Q/DQ" + (
            f"; likely cause: {census.cause}" if census.cause else ""
        )
    have, want = _apart(census.integer_share, bar.min_integer_share, 2)
    line = f"{case_id}: integer share {have} < min_integer_share {want} ({share}; {why})"
    return _expected("structure", bar, Verdict(FAIL, line, red=True))


def _expected(gate: str, bar: Bar, verdict: Verdict) -> Verdict:
    if gate not in bar.expected_failure:
        return verdict
    if verdict.name == PASS:
        return replace(
            verdict, reason=f"{verdict.reason}; no longer fails: {gate!r} can leave expected_failure of {bar.pattern!r}"
        )
    return replace(verdict, reason=f"{verdict.reason}; expected: {bar.why}", red=False)


def _interval(interval: Interval) -> str:
    return f"{100 * interval.confidence:g} % [{interval.low:.2f}, {interval.high:.2f}] pp"


def _apart(value: float, bar: float, digits: int) -> tuple[str, str]:
    """Both numbers with `digits` decimals, or with as many more as tell them apart."""
    while value != bar and digits < 17 and f"{value:.{digits}f}" == f"{bar:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f}", f"{bar:.{digits}f}"
