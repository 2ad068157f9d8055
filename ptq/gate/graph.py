"""Graph: the selected cases as tasks, and which come first, so that nobody makes what another is making."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ptq.cases import Case
from ptq.engine.registry import Registry, reference_case
from ptq.engine.workload import Workload
from ptq.gate.shard import group_of
from ptq.quantization.method import MOMENTS, NEEDS


@dataclass(frozen=True)
class Task:
    """All steps of one case, to be made after those of the cases it names: `needs` are ids."""

    case: str
    needs: tuple[str, ...] = ()


def tasks(cases: Iterable[Case], workloads: Mapping[str, Workload], registry: Registry) -> list[Task]:
    """A task a case, what is needed before what needs it.

    First of a workload comes the float reference, selected or not, which all are compared with; then, of the cases that
    calibrate by the same passes, the one that asks for least makes the passes for all, and the first that asks for
    moments makes those.
    """
    wanted = dict.fromkeys(cases)
    references = {case.workload: reference_case(case.workload) for case in wanted}
    groups: dict[str, list[Case]] = {}
    for case in wanted:
        if case not in references.values():
            groups.setdefault(group_of(case, workloads[case.workload], registry), []).append(case)
    first: list[Task] = [Task(case.id) for case in references.values()]
    rest: list[Task] = []
    for some in groups.values():
        ranked = sorted(some, key=lambda case: (_asks(case, registry), case.id))
        after = [references[ranked[0].workload].id]
        moments: str | None = None
        for place, case in enumerate(ranked):
            asks = _asks(case, registry) >= NEEDS.index(MOMENTS)
            task = Task(case.id, (*after, moments) if asks and moments is not None else tuple(after))
            if place == 0:
                after.append(case.id)
            if asks and moments is None:
                moments = case.id
            (first if place == 0 or case.id == moments else rest).append(task)
    return first + rest


def _asks(case: Case, registry: Registry) -> int:
    """How much a case's method needs of calibration."""
    method = registry.methods.get(case.method)
    return -1 if method is None else max(map(NEEDS.index, method.needs), default=-1)
