"""Review: whether bars.toml and reference.json can be what they should be, without running a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ptq.cases import FP32
from ptq.errors import PtqError
from ptq.gate.bars import Bar, Bars, load_bars
from ptq.gate.reference import Entry, load_references, unpacked

_PATTERN = re.compile(r"[a-z0-9_.\-*?\[\]!]+")
_ID = re.compile(r"[a-z0-9_.]+(-[a-z0-9_.]+){2,5}")
_ROUNDED = 2e-6
"""How far a value, rounded to six decimals, may be from what its outcomes say."""


def review(path: Path) -> list[str]:
    """One line for each thing that is wrong with a file of bars and the references beside it; empty when all is well.

    Beyond what reading them refuses: a pattern that can match no id, a floor above a ceiling, a key that can hold
    nothing, a referenced case without a bar or with two equally specific ones, a reference under the floor of its bar,
    and one whose value is not what its outcomes say.
    """
    try:
        bars = load_bars(path)
    except PtqError as error:
        return [str(error)]
    lines = [f'{path}: ["{bar.pattern}"] {line}' for bar in bars.bars for line in _of_bar(bar)]
    try:
        references = load_references(path.with_name("reference.json"))
    except PtqError as error:
        return [*lines, str(error)]
    for case_id, entry in references.entries.items():
        where = f"{references.path}: {case_id}"
        lines += [f"{where}: {line}" for line in _of_entry(case_id, entry)]
        if entry.environment not in references.environments:
            lines.append(
                f"{where}: environment {entry.environment!r} is none of the file's; remake it with --ptq-update"
            )
        lines += _held(bars, case_id, entry)
    return lines


def _of_bar(bar: Bar) -> Iterator[str]:
    if not _PATTERN.fullmatch(bar.pattern):
        yield "can match no case: ids are made of a-z, 0-9, '_', '.' and '-'"
    if bar.floor is not None and bar.ceiling is not None and bar.floor > bar.ceiling:
        yield f"floor={bar.floor:g} is above ceiling={bar.ceiling:g}: nothing can reach both"
    for key in ("min_integer_share", "min_speedup", "max_ratio"):
        if bar.pattern.endswith(f"-{FP32}") and getattr(bar, key) is not None:
            yield f"{key}={getattr(bar, key):g}, but governs float cases alone, which no gate holds to it: remove it"


def _of_entry(case_id: str, entry: Entry) -> Iterator[str]:
    if not _ID.fullmatch(case_id):
        yield "is no id of a case, but should be: workload-backend-dtype[-method][-channel][-auto]"
    if entry.n < 1:
        yield f"n={entry.n}, but should be at least 1"
    right = unpacked(entry.outcomes, entry.n)
    if right is not None and entry.n and abs(float(right.mean()) - entry.value) > _ROUNDED:
        yield f"value={entry.value:g}, but its outcomes say {right.mean():.6f}; remake it with --ptq-update"


def _held(bars: Bars, case_id: str, entry: Entry) -> Iterator[str]:
    """What the bar of a referenced case says against it."""
    try:
        bar = bars.of(case_id)
    except PtqError as error:
        yield str(error)
        return
    if any(each.startswith("accuracy") for each in bar.expected_failure):
        return
    where, fact = f'{bars.path}: ["{bar.pattern}"]', f"but the reference of {case_id} is {entry.value:g}"
    if bar.floor is not None and entry.value < bar.floor:
        yield f"{where} floor={bar.floor:g}, {fact}"
    if bar.ceiling is not None and entry.value > bar.ceiling:
        yield f"{where} ceiling={bar.ceiling:g}, {fact}"
