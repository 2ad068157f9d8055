"""Bars: the thresholds people write, by pattern of case ids, and which of them governs a case."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ptq.errors import BadData, PtqError

GATES = ("accuracy", "latency", "structure")
_WILD = re.compile(r"\[[^]]+\]|[*?]")


@dataclass(frozen=True)
class Bar:
    """What a case must reach; one table of bars.toml. All are one-sided: better never fails.

    pattern: which case ids it governs, as `fnmatch` has it, case-sensitive.
    why: where the numbers come from, or why they are good enough. Required.
    floor: least value of the metric, 0..1.
    max_drop: largest drop against FP32 on the same images, percentage points, 0..100.
    confidence: of the interval the drop is judged by, inside (0, 1). When set, an unresolved verdict is red.
    min_integer_share: least share of compute nodes that really run in integer, 0..1.
    min_speedup: least FP32 time / quantized time, above 0.
    max_ratio: largest quantized time / FP32 time, above 0.
    expected_failure: gates whose failure is known: reported, but not red; of `GATES`. `why` says why.
    """

    pattern: str
    why: str
    floor: float | None = None
    max_drop: float | None = None
    confidence: float | None = None
    min_integer_share: float | None = None
    min_speedup: float | None = None
    max_ratio: float | None = None
    expected_failure: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The bar as a result carries it: what is set, and nothing else."""
        return {key: value for key, value in asdict(self).items() if value not in (None, ())}

    @property
    def ratio(self) -> float | None:
        """The largest time ratio to FP32 that `max_ratio` and `min_speedup` both admit; None when neither is set."""
        set_ = [self.max_ratio, None if self.min_speedup is None else 1 / self.min_speedup]
        return min((each for each in set_ if each is not None), default=None)

    @property
    def specificity(self) -> int:
        """How many literal characters the pattern has."""
        return len(_WILD.sub("", self.pattern))


@dataclass(frozen=True)
class Bars:
    """All bars of one file."""

    path: Path
    bars: tuple[Bar, ...]

    def of(self, case_id: str) -> Bar:
        """The bar that governs a case: of those that match, the one with most literal characters.

        Raises `PtqError` when none matches or two are equally specific.
        """
        ranked = sorted((bar for bar in self.bars if _matches(bar, case_id)), key=lambda bar: -bar.specificity)
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

    def check(self, case_ids: Iterable[str]) -> list[str]:
        """One line for every bar that governs no case and every case that has no bar; empty when all is well.

        `case_ids` are all cases there could be, those whose data or framework is absent here too.
        """
        ids = sorted(set(case_ids))
        lines = [self._orphan(bar, ids) for bar in self.bars if not any(_matches(bar, each) for each in ids)]
        for each in ids:
            try:
                self.of(each)
            except PtqError as error:
                lines.append(str(error))
        return lines

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
    range, a missing `why`, and a bar with neither `floor` nor `max_drop`, which would let every accuracy pass.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadData(
            f"{path}: not there, but every case needs a bar: write one table a pattern of case ids"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadData(f"{path}: cannot be read as TOML ({' '.join(str(error).split())})") from error
    return Bars(path, tuple(_bar(path, pattern, table) for pattern, table in tables.items()))


_RANGES: Mapping[str, tuple[float, float, str]] = {
    "floor": (0, 1, "a number in 0..1"),
    "max_drop": (0, 100, "percentage points in 0..100"),
    "confidence": (1e-9, 1 - 1e-9, "a number above 0 and below 1, e.g. 0.95"),
    "min_integer_share": (0, 1, "a number in 0..1"),
    "min_speedup": (1e-9, 1e9, "a number above 0, e.g. 1.1"),
    "max_ratio": (1e-9, 1e9, "a number above 0, e.g. 0.9"),
}
_KEYS = tuple(each.name for each in fields(Bar) if each.name != "pattern")


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
    if "floor" not in table and "max_drop" not in table:
        raise BadData(f"{where} has neither floor nor max_drop, but should have one: else every accuracy passes")
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
        known = isinstance(value, list) and all(each in GATES for each in value)
        return None if known else f"a list of {', '.join(GATES)}"
    low, high, words = _RANGES[key]
    number = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    return None if number else words


def _matches(bar: Bar, case_id: str) -> bool:
    return fnmatchcase(case_id, bar.pattern)
