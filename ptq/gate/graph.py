"""Graph: the selected cases as tasks, and which come first, so that nobody makes what another is making."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ptq.cases import NONE, Case
from ptq.engine.registry import Registry, reference_case
from ptq.engine.workload import Workload
from ptq.gate.shard import group_of
from ptq.quantization.method import EXTREMES, HISTOGRAM, MOMENTS, NEEDS, Transform

MODEL, ARTIFACT, EVALUATION = "model", "artifact", "evaluation"
"""Parts of a case: what its passes run, its artifact, and a block of what that says of the evaluation samples."""
BLOCKWISE = (EXTREMES, HISTOGRAM, MOMENTS)
"""The passes that may be seen block by block, see `ptq.data.blocks`: parts, too."""


@dataclass(frozen=True)
class Task:
    """All steps of one case, to be made after the tasks it names; or a `part` of it alone: what, which block, and, of
    passes, how many of the method's transforms the model has been through.
    """

    case: str
    needs: tuple[str, ...] = ()
    part: tuple[str, int, int] | None = None

    @property
    def name(self) -> str:
        """What `needs` call it."""
        return " ".join(map(str, (self.case, *(self.part or ()))))


def tasks(
    cases: Iterable[Case],
    workloads: Mapping[str, Workload],
    registry: Registry,
    blocks: Mapping[str, tuple[int, int]] | None = None,
) -> list[Task]:
    """A task a case, what is needed before what needs it.

    First of a workload comes the float reference, selected or not, which all are compared with; then, of the cases that
    calibrate by the same passes, the first that asks for each makes it for all. `blocks` are how many a workload's
    calibration and evaluation samples have: where there are several, each is a task of its own.
    """
    wanted = dict.fromkeys(cases)
    references = {case.workload: reference_case(case.workload) for case in wanted}
    groups: dict[str, list[Case]] = {}
    for case in wanted:
        if case not in references.values():
            groups.setdefault(group_of(case, workloads[case.workload], registry), []).append(case)
    blocks = blocks or {}
    first = [task for case in references.values() for task in _evaluated(case, (), blocks)]
    rest: list[Task] = []
    for some in groups.values():
        reference = references[some[0].workload].id
        leaders: dict[Pass, str] = {}
        for case in sorted(some, key=lambda case: (_most(_passes(case, registry)), case.id)):
            passes = _passes(case, registry)
            new = [each for each in passes if each not in leaders]
            led = (reference, *dict.fromkeys(leaders[each] for each in passes if each in leaders))
            parts = _seen(case, new, led, blocks)
            made = _evaluated(case, (*led, *(task.name for task in parts)), blocks)
            (first if new else rest).extend([*parts, *made])
            leaders |= dict.fromkeys(new, made[0].name)
    return first + rest


Pass = tuple[str, tuple[Transform, ...]]
"""What is seen of calibration, of `NEEDS`, and of which model: as which transforms have it."""


def _passes(case: Case, registry: Registry) -> list[Pass]:
    """What a case needs of calibration, what comes first first; nothing where nobody knows."""
    method = registry.methods.get(case.method)
    if method is None:
        return []
    needs = method.needs if case.exclude == NONE else method.needs | {HISTOGRAM}
    transforms = method.transforms
    before = [(need, transforms[:at]) for at, each in enumerate(transforms) for need in sorted(each.needs)]
    return [*before, *((need, transforms) for need in sorted(needs, key=NEEDS.index))]


def _most(passes: list[Pass]) -> tuple[int, int]:
    """How much passes take: transforms, and the index in `NEEDS` of the most that is seen."""
    return max((len(transforms), NEEDS.index(need)) for need, transforms in passes) if passes else (0, 0)


def _seen(case: Case, new: list[Pass], led: tuple[str, ...], blocks: Mapping[str, tuple[int, int]]) -> list[Task]:
    """The tasks of passes that are seen block by block: of the model each runs, and of every block."""
    count, found = blocks.get(case.workload, (1, 1))[0], dict[str, Task]()
    for need, transforms in new if count > 1 else ():
        if need in BLOCKWISE:
            # what rewrites a model looks at what is seen of it; all others need the reference alone
            model = Task(case.id, (*led, *found) if transforms else led[:1], (MODEL, 0, len(transforms)))
            model = found.setdefault(model.name, model)
            parts = [Task(case.id, (model.name,), (need, number, len(transforms))) for number in range(count)]
            found |= {part.name: part for part in parts}
    return list(found.values())


def _evaluated(case: Case, needs: tuple[str, ...], blocks: Mapping[str, tuple[int, int]]) -> list[Task]:
    """The task of a case; where it is evaluated block by block first those of its artifact and of all blocks."""
    count = blocks.get(case.workload, (1, 1))[1]
    if count == 1:
        return [Task(case.id, needs)]
    artifact = Task(case.id, needs, (ARTIFACT, 0, 0))
    parts = [Task(case.id, (artifact.name,), (EVALUATION, number, 0)) for number in range(count)]
    return [artifact, *parts, Task(case.id, tuple(part.name for part in parts))]
