"""Graph: the selected cases as tasks, and which come first, so that nobody makes what another is making."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ptq.cases import NONE, Case
from ptq.engine.registry import Registry, reference_case
from ptq.engine.workload import Workload
from ptq.gate.shard import group_of
from ptq.quantization.method import HISTOGRAM, MOMENTS, NEEDS


@dataclass(frozen=True)
class Task:
    """All steps of one case, to be made after the tasks it names; or one `block` of a pass its calibration takes,
    ``histogram`` or ``moments`` and a number.
    """

    case: str
    needs: tuple[str, ...] = ()
    block: tuple[str, int] | None = None

    @property
    def name(self) -> str:
        """What `needs` call it."""
        return self.case if self.block is None else f"{self.case} {self.block[0]} {self.block[1]}"


def tasks(
    cases: Iterable[Case],
    workloads: Mapping[str, Workload],
    registry: Registry,
    blocks: Mapping[str, int] | None = None,
) -> list[Task]:
    """A task a case, what is needed before what needs it.

    First of a workload comes the float reference, selected or not, which all are compared with; then, of the cases that
    calibrate by the same passes, the first that asks for each makes it for all. `blocks` are how many a workload's
    calibration samples have: where there are several, what is seen of each is a task of its own.
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
        reference = references[some[0].workload].id
        leaders: dict[int, str] = {}
        for case in sorted(some, key=lambda case: (_asks(case, registry), case.id)):
            asks = _asks(case, registry)
            needs = [reference, *leaders.values()]
            leads = asks not in leaders
            if leads and NEEDS[asks] in BLOCKWISE and (count := (blocks or {}).get(case.workload, 1)) > 1:
                parts = [Task(case.id, (reference,), (NEEDS[asks], number)) for number in range(count)]
                first += parts
                needs += [part.name for part in parts]
            (first if leads else rest).append(Task(case.id, tuple(needs)))
            leaders.setdefault(asks, case.id)
    return first + rest


BLOCKWISE = (HISTOGRAM, MOMENTS)
"""The passes that may be seen block by block, see `ptq.data.blocks`."""


def _asks(case: Case, registry: Registry) -> int:
    """The index in `NEEDS` of the most that a case needs of calibration; that of extremes where nobody knows."""
    method = registry.methods.get(case.method)
    asks = 0 if method is None else max(map(NEEDS.index, method.needs), default=0)
    return asks if case.exclude == NONE else max(asks, NEEDS.index(HISTOGRAM))
