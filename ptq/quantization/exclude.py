"""Joins: where one scale serves tensors of different sizes, and what to keep in float because of it.

A Concat gives its inputs one scale. When one spans 0..640 and the other 0..1, eight bits leave the second less than
one level and it becomes 0: this is how static int8 turns a detector's mAP into 0.0 without a word. Nothing here goes
by name: joins are found from what calibration saw, the rest from the graph's shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ptq.errors import BadModel, PtqError
from ptq.models.graph import Graph, walk
from ptq.models.onnx_file import load

if TYPE_CHECKING:
    from ptq.calibration.statistics import TensorStatistics

FACTOR = 16.0
"""How much wider than its narrowest input a join's range may be: at 16 the narrowest keeps 4 of 8 bits."""

_JOINS = {"Concat": 0, "Where": 1, "Max": 0, "Min": 0, "Add": 0}
"""Operators that give several inputs one output scale, with the index of the first such input."""
_SUM = 16.0
"""How many times as wide the operands of an Add may be: beyond `FACTOR` times this the narrower one, less than one of
256 levels, is lost altogether. An attention mask of -3e38 does that."""
_MASK = 1e9
"""No answer of a layer is so large: a constant that drives what it is added to out of a Softmax."""
_MOVES = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Split", "Slice", "Resize", "MaxPool"}
"""Operators that pass values on: the scale of their output is that of their input."""
_LEARNED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


class Exclusion(NamedTuple):
    """A node to keep in float, by name, and why, in a few words."""

    node: str
    reason: str


class Spread(Protocol):
    """What is asked of a tensor's statistics: the smallest and the largest value seen."""

    @property
    def min(self) -> float: ...
    @property
    def max(self) -> float: ...


class Join(NamedTuple):
    """A join of ranges `factor` apart: (max - min) of its widest and narrowest input, zero included."""

    node: str
    widest: float
    narrowest: float

    @property
    def factor(self) -> float:
        return self.widest / self.narrowest


def mixed_joins(model: Path, statistics: Mapping[str, Spread], factor: float = FACTOR) -> list[Join]:
    """Every join whose inputs' ranges differ by more than `factor`, an Add's by more than 16 times that, in order."""
    return [join for _, join in _mixed(Scales(model), statistics, factor)]


def plan_exclude(model: Path, statistics: Mapping[str, TensorStatistics], name: Path | None = None) -> list[Exclusion]:
    """Which nodes of a float model to keep in float, and why; empty for one without a mixed-scale join and a mask.

    `statistics` are by tensor name, as calibration over `model` gives them. Four rules:

    1. A mixed-scale join, see `mixed_joins`, with whatever reads it up to the next learned layer: a quantized reader
       would bring the common scale back.
    2. If nothing learned follows it, the join is arithmetic on answers, not a feature map, so its ancestors up to
       the last learned layers are a decode tail: coordinates and scores that need more than 8 bits. A convolution that
       reads a Softmax is the expectation of a distribution (Li et al., Generalized Focal Loss, 2020), part of the
       tail.
    3. The learned layers a tail starts from, because their outputs are the answers themselves: a logit that says
       "here" is rare, so ranges clip it, and one step of 1/255 of its range is a large step in the score.

    4. What makes or reads a tensor with values beyond 1e9, but no learned layer: an attention mask, whose constant
       would set a scale that leaves all else 0.

    Raises `BadModel`, which calls the model `name`, when a node to exclude has no name.
    """
    graph = Scales(model, name)
    plan: dict[str, str] = {}
    for node, join in _mixed(graph, statistics, FACTOR):
        scales = f"{join.widest:.4g} and {join.narrowest:.4g} ({join.factor:.4g}x)"
        plan[graph.name(node)] = f"joins ranges of {scales} under one scale"
        for reader in graph.passes_to(node):
            plan.setdefault(graph.name(reader), f"reads {join.node}, which joins ranges of {scales}")
        if not any(graph.is_learned(each) for each in graph.descendants(node)):
            for each in graph.tail(node):
                what = "last learned layer" if graph.is_learned(each) else "after the last learned layers"
                plan.setdefault(graph.name(each), f"decode tail of {join.node}: {what}")
    masks = {name for name, each in statistics.items() if max(each.max, -each.min) > _MASK}
    for node in graph.nodes:
        if masks & {*node.input, *node.output} and not graph.is_learned(node):
            plan.setdefault(graph.name(node), "has to do with a mask: values beyond 1e9")
    return [Exclusion(name, reason) for name, reason in plan.items()]


def choose_exclude(
    model: Path,
    wanted: Sequence[str],
    statistics: Callable[[], Mapping[str, TensorStatistics]],
    name: Path | None = None,
) -> list[Exclusion]:
    """The nodes a user wants in float: names, patterns as `fnmatch` has them, and ``auto`` for `plan_exclude`.

    `statistics` is called for ``auto`` only. Raises `PtqError`, which calls the model `name`, for what matches no node.
    """
    names = [str(each.name) for each in load(model).graph.node if each.name] if wanted else []
    plan: dict[str, str] = {}
    for each in wanted:
        if each == "auto":
            found = plan_exclude(model, statistics(), name)
        else:
            found = [Exclusion(node, f"asked for by {each!r}") for node in names if fnmatchcase(node, each)]
            if not found:
                known = name or model
                raise PtqError(f"{known}: no node is called {each!r}, but --exclude takes names, patterns and 'auto'")
        for exclusion in found:
            plan.setdefault(*exclusion)
    return [Exclusion(name, reason) for name, reason in plan.items()]


def summary(plan: Sequence[Exclusion]) -> str:
    """A plan in one line: every reason, with how many nodes it keeps in float."""
    return "; ".join(f"{count} {reason}" for reason, count in Counter(each.reason for each in plan).items())


def _mixed(graph: Scales, statistics: Mapping[str, Spread], factor: float) -> Iterator[tuple[Any, Join]]:
    for node in graph.nodes:
        if node.op_type not in _JOINS:
            continue
        seen = [statistics[each] for each in node.input[_JOINS[node.op_type] :] if each in statistics]
        widths = [max(each.max, 0.0) - min(each.min, 0.0) for each in seen]
        # A tensor that is always 0 loses nothing under any scale.
        widths = [each for each in widths if each > 0]
        most = factor * _SUM if node.op_type == "Add" else factor
        if len(widths) > 1 and max(widths) > most * min(widths):
            yield node, Join(graph.name(node), max(widths), min(widths))


class Scales(Graph):
    """A model's graph, walked by what scales and weights do to values."""

    def __init__(self, model: Path, name: Path | None = None) -> None:
        super().__init__(load(model).graph)
        self.model = name or model

    def name(self, node: Any) -> str:
        if not node.name:
            raise BadModel(f"{self.model}: a {node.op_type} node has no name, but needs one to be kept in float")
        return str(node.name)

    def is_learned(self, node: Any) -> bool:
        """Whether the node multiplies with weights, and not only with those of a distribution's expectation."""
        return (
            node.op_type in _LEARNED
            and any(each in self.constants for each in node.input[1:])
            and self._source_type(node.input[0]) != "Softmax"
        )

    def descendants(self, node: Any) -> Iterator[Any]:
        """Everything a node's output flows into."""
        return walk(node, self.users)

    def passes_to(self, node: Any) -> Iterator[Any]:
        """What reads a node, through nodes that only pass values on; those are given too."""
        return walk(node, lambda each: self.users(each) if each is node or each.op_type in _MOVES else [])

    def tail(self, node: Any) -> Iterator[Any]:
        """Ancestors of a node up to the learned layers, those included."""
        return walk(node, lambda each: [] if self.is_learned(each) else self.parents(each))

    def _source_type(self, tensor: str) -> str | None:
        node = self.producer.get(tensor)
        while node is not None and node.op_type in _MOVES:
            node = self.producer.get(node.input[0])
        return None if node is None else str(node.op_type)
