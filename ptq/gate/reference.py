"""Reference: what each case gave last, written by the machine, so that a result that got worse shows above its floor.

The file is JSON: ``schema``, ``environments`` (by a short digest of theirs), and ``cases``, one block a case id with
``metric, value, n, fp32_value, evaluation`` (digest of the samples), ``outcomes`` (base64 of packed right/wrong bits)
and ``environment`` (a key of ``environments``). The same results give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

import numpy as np
import numpy.typing as npt

from ptq.data.content import read_json
from ptq.data.shape import check, check_fields
from ptq.errors import BadData, one_line
from ptq.files import write_text
from ptq.gate.result import Result
from ptq.metrics.metric import SHARE
from ptq.metrics.paired import mcnemar

SCHEMA = "ptq-reference/1"
ALPHA = 0.01
"""A result is significantly worse when the one-sided p of its test is below this."""
OTHER_IMAGES = 1.7
"""Factor on the interval when the images are others than the reference's: at 95 % a suite of 60 cases would turn red by
chance; this is 99.9 %.
"""
TOLERANCE = 0.1
"""What a result without paired outcomes may lose beyond its interval, as other kernels round otherwise: percentage
points of a share, else per cent of the reference.
"""


@dataclass(frozen=True)
class Entry:
    """What one case gave; fields as in `Result`, `environment` the key of where."""

    metric: str
    value: float
    n: int
    fp32_value: float
    evaluation: str | None
    outcomes: str | None
    environment: str


_FIELDS = get_type_hints(Entry)


class _File(TypedDict):
    environments: dict[str, dict[str, Any]]
    cases: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """A result against its reference: whether it is significantly worse, and the line that says so."""

    worse: bool
    line: str


@dataclass(frozen=True)
class References:
    """The entries of one file by case id, and the environments they were made in."""

    path: Path
    entries: Mapping[str, Entry] = field(default_factory=dict)
    environments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def compare(self, result: Result) -> Comparison | None:
        """A judged result against its entry; None when it has none.

        On the same images, with outcomes on both sides: McNemar's exact one-sided test at `ALPHA`. Else the loss is
        held against sqrt(2) times the lower half of the interval of the drop, both measurements being uncertain, plus
        `TOLERANCE`: the loss in value on the same images; on others the growth of the drop against FP32, and the
        interval `OTHER_IMAGES` times as wide. A reference of another metric guards nothing, so it counts as worse.
        """
        entry = self.entries.get(result.case.id)
        if entry is None or result.value is None:
            return None
        if entry.metric != result.metric:
            line = f"{result.case.id}: {result.metric}, but its reference is {entry.metric}; run with --ptq-update"
            return Comparison(True, line)
        then, now = unpacked(entry.outcomes, entry.n), unpacked(result.outcomes, result.n)
        same = entry.evaluation is not None and (entry.evaluation, entry.n) == (result.evaluation, result.n)
        share = result.unit == SHARE
        number, unit = (".4f", "pp") if share else (".4g", result.unit)
        head, last = f"{result.case.id}: {result.metric} {result.value:{number}}", f"{entry.value:{number}}"
        if same and then is not None and now is not None:
            b, c = int((then & ~now).sum()), int((~then & now).sum())
            p = mcnemar(b, c, "greater")
            facts = f"{b} images lost, {c} won, McNemar p={p:.2g}, n={result.n}"
            return _comparison(p < ALPHA, head, last, facts)
        sign = (1 if result.higher_is_better else -1) * (100 if share else 1)
        if same or result.fp32_value is None:
            loss, what = sign * (entry.value - result.value), "the same images without paired outcomes"
        else:
            loss = sign * ((entry.value - entry.fp32_value) - (result.value - result.fp32_value))
            what = f"drop against FP32 grew by {loss:.3g} {unit} on other images than the reference's"
        noise = 0.0
        if result.interval is not None and result.drop is not None:
            noise = math.sqrt(2) * (result.drop - result.interval[0]) * (1 if same else OTHER_IMAGES)
        most = noise + (TOLERANCE if share else TOLERANCE / 100 * abs(entry.value))
        facts = f"{what}, of which {most:.3g} {unit} may be chance, n={result.n}"
        return _comparison(loss > most, head, last, facts)

    def missing(self, judged: Iterable[str]) -> list[str]:
        """Ids of judged cases that have no entry, sorted."""
        return sorted(set(judged) - set(self.entries))

    def orphans(self, case_ids: Collection[str]) -> list[str]:
        """Ids of entries that are none of `case_ids`, all cases there could be; sorted."""
        return sorted(set(self.entries) - set(case_ids))

    def elsewhere(self, judged: Iterable[Result]) -> list[str]:
        """One line at most: judged cases whose entry was made on other samples, so that little can show."""
        others = sorted(
            result.case.id
            for result in judged
            if (entry := self.entries.get(result.case.id)) is not None
            and (entry.evaluation, entry.n) != (result.evaluation, result.n)
        )
        if not others:
            return []
        entry = self.entries[others[0]]
        return [
            f"{len(others)} references were made on other samples, the first: {others[0]} on {entry.n}: only a large "
            f"loss shows; run with --ptq-update and review {self.path.name}"
        ]

    def gaps(self, judged: Iterable[str], case_ids: Collection[str]) -> list[str]:
        """Two lines at most: judged cases without an entry, and entries without a case."""
        remedy = f"; run with --ptq-update and review {self.path.name}"
        lines = []
        if missing := self.missing(judged):
            lines.append(f"{len(missing)} judged cases have no reference, the first: {missing[0]}{remedy}")
        if orphans := self.orphans(case_ids):
            lines.append(f"{len(orphans)} references have no case, the first: {orphans[0]}{remedy}")
        return lines

    def updated(
        self, results: Iterable[Result], environment: Mapping[str, Any], case_ids: Collection[str]
    ) -> References:
        """With every judged result's entry; entries of cases that did not run stay, orphans go.

        An entry whose measurement is the same stays as it is, its environment too, so that a diff shows what changed.
        """
        key = hashlib.sha256(_json(environment).encode()).hexdigest()[:12]
        entries = {each: entry for each, entry in self.entries.items() if each in case_ids}
        for result in results:
            if not result.judged or result.void or result.value is None or result.fp32_value is None:
                continue
            new = Entry(
                metric=result.metric,
                value=_rounded(result.value, result.unit),
                n=result.n,
                fp32_value=_rounded(result.fp32_value, result.unit),
                evaluation=result.evaluation,
                outcomes=result.outcomes,
                environment=key,
            )
            old = entries.get(result.case.id)
            if old is None or _measured(old) != _measured(new):
                entries[result.case.id] = new
        known = {**self.environments, key: dict(environment)}
        used = {each.environment for each in entries.values()}
        return References(self.path, entries, {each: known[each] for each in sorted(used) if each in known})

    def save(self) -> None:
        """Write the file: sorted, one field a line, whole or not at all."""
        cases = {each: asdict(entry) for each, entry in self.entries.items()}
        write_text(self.path, _json({"schema": SCHEMA, "environments": self.environments, "cases": cases}))


def load_references(path: Path) -> References:
    """Read a file of references; none when it is absent, `BadData` when it is not one."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return References(path)
    except (OSError, ValueError) as error:
        raise BadData(f"{path}: cannot be read as JSON ({one_line(error)}); remake it with --ptq-update") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        have = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise BadData(f"{path}: schema={have!r:.80}, but should be {SCHEMA!r}; remake it with --ptq-update")
    try:
        check(content, _File, "the file")
        entries = {each: _entry(fields, f"cases[{each!r}]") for each, fields in content["cases"].items()}
    except (BadData, ValueError, RecursionError) as error:
        raise BadData(
            f"{path}: a case is not as --ptq-update writes it ({one_line(error)}); remake the file with it"
        ) from error
    return References(path, entries, content["environments"])


def _entry(fields: Mapping[str, Any], name: str) -> Entry:
    if unknown := fields.keys() - _FIELDS.keys():
        raise BadData(f"{name} has {min(unknown)!r:.60}, which is no field of a case")
    check_fields(fields, _FIELDS, name)
    entry = Entry(**fields)
    unpacked(entry.outcomes, entry.n)
    return entry


def unpacked(packed: str | None, n: int) -> npt.NDArray[np.bool_] | None:
    """Right or wrong per image, bool of shape (n,), from base64 of packed bits; `ValueError` for what is none."""
    if packed is None:
        return None
    try:
        octets = np.frombuffer(base64.b64decode(packed, validate=True), dtype=np.uint8)
    except ValueError as error:  # of characters that are not ASCII, too
        raise ValueError(f"outcomes are not base64: {error}") from error
    if len(octets) != (n + 7) // 8:
        raise ValueError(f"outcomes hold {8 * len(octets)} bits, but should hold {n}")
    return np.unpackbits(octets, count=n).astype(bool)


def _comparison(worse: bool, head: str, last: str, facts: str) -> Comparison:
    relation = "is significantly worse than" if worse else "is no worse than"
    return Comparison(worse, f"{head} {relation} its reference {last} ({facts})")


def _rounded(value: float, unit: str) -> float:
    """Six decimals of a share, six digits of what may be small."""
    return round(value, 6) if unit == SHARE else float(f"{value:.6g}")


def _measured(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if key != "environment"}


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
