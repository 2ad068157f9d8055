"""Shard: a part of the selected tests, the same on every machine that cuts them, and packed by what they take."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ptq.cases import NONE, Case
from ptq.engine.registry import Registry
from ptq.engine.timetable import Seconds
from ptq.engine.workload import Workload
from ptq.errors import PtqError
from ptq.models.onnx_file import signature
from ptq.quantization.method import EXTREMES, Method

MOST = 10_000


@dataclass(frozen=True)
class Shard:
    """Number `number` of `of`, from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``2/3``; `PtqError` for what is none."""
        found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]) <= MOST:
            raise PtqError(f"--ptq-shard {text}: should be NUMBER/OF, from 1/1, e.g. 2/3")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def group_of(case: Case, workload: Workload, registry: Registry) -> str:
    """What a case is kept together with: those that calibrate by the same passes, else none.

    Methods that ask for extremes alone have a pass of their own, unless the model's batch is fixed, or nothing is known
    of it before it is converted. What a backend calibrates by itself, nobody shares.
    """
    method = registry.methods.get(case.method)
    if method is None or case.is_float or case.method in workload.artifacts:
        return case.id
    light = case.exclude == NONE and _needs(method) <= {EXTREMES} and _has_lighter_pass(workload)
    return f"{case.workload} {'extremes' if light else 'statistics'}"


def cut(groups: Mapping[str, Iterable[str]], seconds: Seconds, of: int) -> dict[str, int]:
    """The shard, from 1, of every group: heaviest first, each to the shard that has least so far.

    `groups` are the case ids of each; what is no case, or not in `seconds`, weighs as the median case does, so that
    where nothing is known all weigh the same. Depends on nothing but the arguments.
    """
    usual = statistics.median(sum(each) for each in seconds.values()) if seconds else 1.0
    weights = {name: _weight(set(ids), seconds, usual) for name, ids in groups.items()}
    loads, found = [0.0] * of, {}
    for name in sorted(weights, key=lambda name: (-weights[name], name)):
        least = min(range(of), key=lambda index: (loads[index], index))
        loads[least] += weights[name]
        found[name] = least + 1
    return found


def _weight(ids: set[str], seconds: Seconds, usual: float) -> float:
    known = [seconds[each] for each in sorted(ids) if each in seconds]
    shared = max((calibrate for calibrate, _ in known), default=0.0)
    return shared + sum(rest for _, rest in known) + usual * (len(ids) - len(known))


def _needs(method: Method) -> frozenset[str]:
    return method.needs.union(*(each.needs for each in method.transforms))


def _has_lighter_pass(workload: Workload) -> bool:
    given = workload.model
    if not isinstance(given, Path | str) or Path(given).suffix != ".onnx" or not Path(given).is_file():
        return False
    try:
        return signature(Path(given)).batch is None
    except PtqError:  # said where the case is judged
        return False
