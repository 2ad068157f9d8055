"""Explanation: what is wrong with a quantized model, in one sentence; every layer's row behind it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ptq.diagnosis.evidence import Evidence
from ptq.diagnosis.finding import DATA, LAYER, MACHINE, Cause, Finding
from ptq.sensitivity.rank import LayerError

SCHEMA = "ptq-explain/2"
FEW_BITS = "too_few_bits"
"""What is told of a tensor where no other cause is."""
NEAR_DB = 6.0
"""Of findings that are this near to the worst, the first in the graph is told: what follows may be its doing."""


@dataclass(frozen=True)
class Row:
    """One layer of the table, in the graph's order; SQNR in dB, larger is better, None where there is none.

    `kept` is what the layer is judged by: the smaller of `local` and `even`, of a Softmax `local`. `fused` are the
    nodes of the float file that the layer stands for beside its own. `local`, `even`, `propagated`: see
    `ptq.sensitivity.rank.LayerError`. `lost`: metric lost with only this layer quantized; `regained`: metric regained
    with only this layer in float; in percentage points of a share, None where it was not measured. `time`: its share
    of the float model's time, 0..1, None where the runtime does not say.
    """

    node: str
    kind: str
    tensor: str
    fused: tuple[str, ...]
    integer: bool
    why_float: str
    kept: float
    local: float
    local_low: float
    local_high: float
    even: float
    propagated: float | None
    weights: float | None
    rounding: float | None
    clipping: float | None
    lost: float | None = None
    regained: float | None = None
    time: float | None = None


@dataclass(frozen=True)
class Explanation:
    """Why a quantized model loses what it loses.

    `name` is the case or the file; `findings` come with the one that is told first; `rows` are the layers; `samples` is
    how many samples the errors are of, `of` which set; `median` is what the layer in the middle keeps, `answers` what
    is left of the worst kind of the model's answers, in dB; `notes` what else there is to know, by topic.
    """

    name: str
    findings: tuple[Finding, ...]
    rows: tuple[Row, ...]
    samples: int
    of: str
    median: float
    answers: float
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The first bad tensor, its cause and the remedy; or that no layer stands out."""
        accused = [each for each in self.findings if each.kind != MACHINE]
        if accused:
            return f"{self.name}: {accused[0]}"
        worst = min(self.rows, key=lambda row: row.kept, default=None)
        kept = "" if worst is None else f" (the worst, {worst.node}, keeps {worst.kept:.1f} dB)"
        line = f"{self.name}: no layer stands out{kept}"
        return f"{line}; {self.findings[0]}" if self.findings else line

    def as_json(self) -> dict[str, Any]:
        """Plain JSON: ``schema, name, sentence, findings, rows, samples, of, median, answers, notes``."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "sentence": self.sentence,
            "findings": [each.as_json() for each in self.findings],
            "rows": [asdict(row) for row in self.rows],
            "samples": self.samples,
            "of": self.of,
            "median": self.median,
            "answers": self.answers,
            "notes": dict(self.notes),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Explanation:
        """The inverse of `as_json`."""
        return cls(
            content["name"],
            tuple(Finding(**each) for each in content["findings"]),
            tuple(Row(**{**each, "fused": tuple(each["fused"])}) for each in content["rows"]),
            content["samples"],
            content["of"],
            content["median"],
            content["answers"],
            content["notes"],
        )


def causes() -> Iterator[Cause]:
    """Every cause there is a file of, by name."""
    parent = importlib.import_module("ptq.diagnosis.causes")
    for name in sorted(info.name for info in pkgutil.iter_modules(parent.__path__)):
        yield importlib.import_module(f"{parent.__name__}.{name}").CAUSE


def findings(evidence: Evidence) -> tuple[Finding, ...]:
    """All that the evidence speaks for, that to be told first in front.

    What lies in the data comes before what lies in a layer, because it spoils every layer; of layers, the first in the
    graph among those as bad as the worst; of several causes of one tensor, the surest.
    """
    found = [finding for cause in causes() for finding in cause.find(evidence)]
    worst = min((each.sqnr_db for each in found if each.kind == LAYER and each.sqnr_db is not None), default=0.0)
    first: dict[tuple[str, str], Finding] = {}
    for finding in sorted(found, key=lambda each: _order(each, worst)):
        first.setdefault((finding.cause, finding.where), finding)
    known = {each.where for each in first.values() if each.cause != FEW_BITS}
    return tuple(each for each in first.values() if each.cause != FEW_BITS or each.where not in known)


def _order(finding: Finding, worst: float) -> tuple[float, ...]:
    left = 0.0 if finding.sqnr_db is None else finding.sqnr_db
    if finding.kind == DATA:
        return (DATA, -finding.strength, left, finding.place)
    near = left <= worst + NEAR_DB
    # far from the worst: by how bad they are
    return (finding.kind, 0.0, float(finding.place), -finding.strength) if near else (
        finding.kind, 1.0, left, -finding.strength,
    )  # fmt: skip


def rows(evidence: Evidence, fused: Mapping[str, Sequence[str]], times: Mapping[str, float] | None) -> tuple[Row, ...]:
    """The table, without what is measured later; `times` are shares by node of the float model."""
    kinds = {name: node.op_type for node in evidence.graph.nodes for name in (node.output[0], node.name)}
    return tuple(
        Row(
            node=each.node,
            kind=kinds.get(each.node, ""),
            tensor=each.tensor,
            fused=tuple(fused.get(each.node, ())),
            integer=each.integer,
            why_float=_why_float(evidence, each),
            kept=evidence.left(each),
            local=each.local,
            local_low=each.local_interval[0],
            local_high=each.local_interval[1],
            even=each.even,
            propagated=each.propagated,
            weights=each.weights,
            rounding=each.rounding,
            clipping=each.clipping,
            time=None if times is None else sum(times.get(name, 0.0) for name in _nodes(evidence, each)),
        )
        for each in evidence.errors.layers
    )


def _nodes(evidence: Evidence, layer: LayerError) -> set[str]:
    """The nodes a layer stands for: its own, and a Relu behind it that the quantizer does as well."""
    maker = evidence.graph.producer.get(layer.tensor)
    return {layer.node} if maker is None else {layer.node, str(maker.name or maker.output[0])}


def _why_float(evidence: Evidence, layer: LayerError) -> str:
    """Why a layer runs in float, as far as the file shows it; empty for one in integer."""
    if layer.integer:
        return ""
    given, makes = evidence.inputs(layer), layer.tensor in evidence.errors.rounding
    if given and makes:
        return "its weights are not quantized"
    return "what it makes is not quantized" if given else "what it reads is not quantized"
