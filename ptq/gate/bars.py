"""Bars: the thresholds people write, by pattern of case ids, and which of them governs a case."""

from __future__ import annotations

import difflib
import re
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ptq.data.content import read_bytes
from ptq.errors import BadData, PtqError, one_line
from ptq.metrics.metric import SHARE, Metric

GATES = ("accuracy", "latency", "structure")
FAMILIES = {"vnni": frozenset({"avx512_vnni", "avx_vnni"})}
"""Instruction sets a failure may be known without: u8s8 kernels then add pairs of products in 16 bits, and saturate."""
_WILD = re.compile(r"\[[^]]+\]|[*?]")


@dataclass(frozen=True)
class Bar:
    """What a case must reach; one table of bars.toml. All are one-sided: better never fails.

    pattern: which case ids it governs, as `fnmatch` has it, case-sensitive.
    why: where the numbers come from, or why they are good enough. Required.
    floor: least value of the metric, in its unit; ceiling: largest value, of a loss.
    max_drop: largest loss against FP32 on the same samples: percentage points for a share, else in the metric's unit.
    min_agreement: least share of decisions equal to FP32's, 0..1.
    min_sqnr_db: least SQNR of the outputs against FP32's, dB.
    min_cosine: least mean over samples of the cosine of the outputs with FP32's, -1..1: for embeddings.
    confidence: of the interval the drop is judged by, inside (0, 1). When set, an unresolved verdict is red.
    min_integer_share: least share of compute nodes that really run in integer, 0..1.
    min_speedup: least FP32 time / quantized time, above 0.
    max_ratio: largest quantized time / FP32 time, above 0.
    max_ratio_fastest_fp32: largest quantized time / time of the fastest FP32 model of any runtime the workload has.
    expected_failure: gates whose failure is known: reported, but not red; of `GATES`, or ``accuracy without vnni``:
        only on an x86 CPU that has none of a family of `FAMILIES`. `why` says why.
    """

    pattern: str
    why: str
    floor: float | None = None
    ceiling: float | None = None
    max_drop: float | None = None
    min_agreement: float | None = None
    min_sqnr_db: float | None = None
    min_cosine: float | None = None
    confidence: float | None = None
    min_integer_share: float | None = None
    min_speedup: float | None = None
    max_ratio: float | None = None
    max_ratio_fastest_fp32: float | None = None
    expected_failure: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The bar as a result carries it: what is set, and nothing else."""
        return {key: value for key, value in asdict(self).items() if value not in (None, ())}

    @property
    def ratio(self) -> float | None:
        """The largest time ratio to FP32 that `max_ratio` and `min_speedup` both admit; None when neither is set."""
        set_ = [self.max_ratio, None if self.min_speedup is None else 1 / self.min_speedup]
        return min((ratio for ratio in set_ if ratio is not None), default=None)

    def expects(self, gate: str, isa: Collection[str]) -> str | None:
        """``expected``, with the condition where there is one, when a failure of `gate` is known here; else None.

        `isa` is what `ptq.engine.environment.instruction_sets` says. What a CPU lacks is known on Linux alone.
        """
        for entry in self.expected_failure:
            name, _, family = entry.partition(" without ")
            if name == gate and not family:
                return "expected"
            if name == gate and "Linux x86_64" in isa and not FAMILIES[family] & set(isa):
                return f"expected without {family}"
        return None

    def misfit(self, metric: Metric) -> str | None:
        """Which key cannot be used with a metric and why; None when all can."""
        (low, high), name = metric.range, metric.name
        if self.floor is not None and not metric.higher_is_better:
            return f"floor={self.floor:g}, but less is better of {name}: set a ceiling"
        if self.ceiling is not None and metric.higher_is_better:
            return f"ceiling={self.ceiling:g}, but more is better of {name}: set a floor"
        for key, value in (("floor", self.floor), ("ceiling", self.ceiling)):
            if value is not None and not low <= value <= high:
                unit = "" if metric.unit == SHARE else f" {metric.unit}"
                return f"{key}={value:g}, but {name} lies in {low:g}..{high:g}{unit}"
        if self.max_drop is not None and metric.unit == SHARE and self.max_drop > 100:
            return f"max_drop={self.max_drop:g}, but should be percentage points in 0..100"
        if self.max_drop is not None and not metric.has_drop:
            return f"max_drop={self.max_drop:g}, but {name} is a distance to FP32 already: set min_sqnr_db or a floor"
        return None

    @property
    def specificity(self) -> int:
        """How many literal characters the pattern has."""
        return len(_WILD.sub("", self.pattern))


@dataclass(frozen=True)
class Bars:
    """All bars of one file."""

    path: Path
    bars: tuple[Bar, ...]
    _known: dict[str, Bar] = field(default_factory=dict, init=False, compare=False, repr=False)

    def of(self, case_id: str) -> Bar:
        """The bar that governs a case: of those that match, the one with most literal characters.

        Raises `PtqError` when none matches or two are equally specific.
        """
        if case_id not in self._known:
            self._known[case_id] = self._of(case_id)
        return self._known[case_id]

    def _of(self, case_id: str) -> Bar:
        ranked = sorted(
            (bar for bar in self.bars if fnmatchcase(case_id, bar.pattern)), key=lambda bar: -bar.specificity
        )
        if not ranked:
            raise PtqError(
                f"{self.path}: no bar for case {case_id}, but every case needs one: add {self._stub(case_id)}"
            )
        if len(ranked) > 1 and ranked[0].specificity == ranked[1].specificity:
            raise PtqError(
                f"{self.path}: patterns {ranked[0].pattern!r} and {ranked[1].pattern!r} match case {case_id} with "
                f"{ranked[0].specificity} literal characters each, but one should be more specific: spell one out"
            )
        return ranked[0]

    def fitting(self, case_id: str, metric: Metric) -> Bar:
        """`of`, or `BadData` for a key that cannot be used with the case's metric."""
        bar = self.of(case_id)
        if (misfit := bar.misfit(metric)) is not None:
            raise self.unusable(bar, misfit)
        return bar

    def unusable(self, bar: Bar, why: str) -> BadData:
        """The error for a bar with a key that does not fit what it governs."""
        return BadData(f'{self.path}: ["{bar.pattern}"] {why}')

    def check(self, case_ids: Iterable[str]) -> list[str]:
        """One line for every bar that governs no case and every case that has no bar; empty when all is well.

        `case_ids` are all cases there could be, those whose data or framework is absent here too.
        """
        ids = sorted(set(case_ids))
        matched = {bar: sum(fnmatchcase(each, bar.pattern) for each in ids) for bar in self.bars}
        lines = [self._orphan(bar, ids) for bar, count in matched.items() if not count]
        governing: set[Bar] = set()
        for case_id in ids:
            try:
                governing.add(self.of(case_id))
            except PtqError as error:
                lines.append(str(error))
        return lines + [
            f"{self.path}: pattern {bar.pattern!r} governs none of the {count} cases it matches, but should one: each "
            "has a more specific pattern: remove it"
            for bar, count in matched.items()
            if count and bar not in governing and not any(repr(bar.pattern) in line for line in lines)
        ]

    def _orphan(self, bar: Bar, ids: list[str]) -> str:
        close = difflib.get_close_matches(_WILD.sub("", bar.pattern), ids, n=1, cutoff=0.5)
        remedy = f"was {close[0]!r} meant?" if close else "remove it"
        return f"{self.path}: pattern {bar.pattern!r} matches none of {len(ids)} cases, but should match one: {remedy}"

    def _stub(self, case_id: str) -> str:
        close = difflib.get_close_matches(case_id, [bar.pattern for bar in self.bars], n=1, cutoff=0.3)
        near = f" (closest pattern: {close[0]!r})" if close else ""
        return f'["{case_id}"] or a pattern{near}'


def load_bars(path: Path) -> Bars:
    """Read bars.toml: one table a pattern, ``["digits-*"]``, with the keys of `Bar`.

    Raises `BadData` for a file that is absent or not TOML, an unknown key, a value of the wrong type or out of its
    range, a missing `why`, a bar with none of `ACCURACY`, which would let every accuracy pass, and a `confidence` with
    none of `INTERVALS`.
    """
    try:
        tables = tomllib.loads(read_bytes(path, 16 << 20).decode())
    except FileNotFoundError as error:
        raise BadData(
            f"{path}: not there, but every case needs a bar: write one table a pattern of case ids"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadData(f"{path}: cannot be read as TOML ({one_line(error)})") from error
    return Bars(path, tuple(_bar(path, pattern, table) for pattern, table in tables.items()))


ACCURACY = ("floor", "ceiling", "max_drop", "min_agreement", "min_sqnr_db", "min_cosine")
"""The keys that hold an accuracy to something; a bar has at least one."""
INTERVALS = ("max_drop", "min_speedup", "max_ratio", "max_ratio_fastest_fp32")
"""The keys that are judged by an interval."""
_MOST = sys.float_info.max
_RANGES: Mapping[str, tuple[float, float, str]] = {
    "floor": (-_MOST, _MOST, "a number"),
    "ceiling": (-_MOST, _MOST, "a number"),
    "max_drop": (0, _MOST, "a number from 0, in percentage points or in the metric's unit"),
    "min_agreement": (0, 1, "a number in 0..1"),
    "min_sqnr_db": (-_MOST, _MOST, "a number, in dB"),
    "min_cosine": (-1, 1, "a number in -1..1"),
    "confidence": (1e-9, 1 - 1e-9, "a number above 0 and below 1, e.g. 0.95"),
    "min_integer_share": (0, 1, "a number in 0..1"),
    "min_speedup": (1e-9, 1e9, "a number above 0, e.g. 1.1"),
    "max_ratio": (1e-9, 1e9, "a number above 0, e.g. 0.9"),
    "max_ratio_fastest_fp32": (1e-9, 1e9, "a number above 0, e.g. 1.0"),
}
_KEYS = tuple(field.name for field in fields(Bar) if field.name != "pattern")
_EXPECTED = (*GATES, *(f"{gate} without {family}" for gate in GATES for family in FAMILIES))


def _bar(path: Path, pattern: str, table: object) -> Bar:
    where = f'{path}: ["{pattern}"]'
    if not isinstance(table, dict):
        raise BadData(f'{path}: {pattern}={table!r}, but should be a table of a pattern, e.g. ["digits-*"]')
    for key, value in table.items():
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, n=1)
            meant = f": was {close[0]!r} meant?" if close else f": it should be one of {', '.join(_KEYS)}"
            raise BadData(f"{where} has the unknown key {key!r}{meant}")
        if (want := _wrong(key, value)) is not None:
            raise BadData(f"{where} {key}={value!r}, but should be {want}")
    if not table.get("why"):
        raise BadData(f"{where} has no why, but should say where its numbers come from")
    if not set(ACCURACY) & set(table):
        raise BadData(f"{where} has none of {', '.join(ACCURACY)}, but should have one: else every accuracy passes")
    if "confidence" in table and not set(INTERVALS) & set(table):
        raise BadData(
            f"{where} confidence={table['confidence']}, but none of {', '.join(INTERVALS)} is set, so no interval is "
            "judged: set one, or remove confidence"
        )
    return Bar(pattern, **{key: _as_field(key, value) for key, value in table.items()})


def _as_field(key: str, value: Any) -> Any:
    if key in _RANGES:
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _wrong(key: str, value: object) -> str | None:
    """What a key's value should be, None when it is."""
    if key == "why":
        return None if isinstance(value, str) and value.strip() else "a sentence"
    if key == "expected_failure":
        known = isinstance(value, list) and all(entry in _EXPECTED for entry in value)
        return None if known else f"a list of {', '.join(GATES)}, each alone or as in 'accuracy without vnni'"
    low, high, words = _RANGES[key]
    number = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    return None if number else words
