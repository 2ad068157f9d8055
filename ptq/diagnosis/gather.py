"""The explain step: evidence gathered from a pipeline, and what it says, kept in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptq.cases import NONE, Case
from ptq.diagnosis.evidence import Evidence
from ptq.diagnosis.explanation import Explanation, causes, findings, rows
from ptq.diagnosis.inputs import input_facts
from ptq.diagnosis.origin import origins
from ptq.engine.environment import instruction_sets, versions
from ptq.engine.passes import RUNTIME, Passes
from ptq.engine.pipeline import Pipeline
from ptq.engine.step import Notes, Step
from ptq.errors import Unsupported
from ptq.models.graph import Graph
from ptq.models.onnx_file import load
from ptq.quantization.dtype import DTYPES
from ptq.sensitivity.answers import Answers
from ptq.sensitivity.measure import LARGE, activation_bytes, fixed_batch, spread
from ptq.sensitivity.pairing import Pairing
from ptq.sensitivity.rank import errors, to_db

if TYPE_CHECKING:
    from ptq.engine.store import Entry, Store

MANY, FEW = 32, 4
"""Samples that a small model's errors are of, and a large one's."""


@dataclass(frozen=True, eq=False)
class Explain(Step):
    """Why a case loses what it loses.

    `artifact` is its QDQ file, or one made in its place; `evaluated` says whether there are evaluation samples.
    """

    kind: ClassVar[str] = "explanation"
    case: Case
    artifact: Entry
    pipeline: Pipeline
    evaluated: bool
    notes: Mapping[str, str]

    @property
    def title(self) -> str:
        return f"{self.case}: explaining"

    @property
    def passes(self) -> Passes:
        """The passes over the calibration samples."""
        return self.pipeline.passes_of(self.case)

    def settings(self) -> Mapping[str, Any]:
        sets = self.pipeline.sample_sets
        return {
            "name": self.case.id,
            "artifact": self.artifact.digest,
            "prepared": self.passes.prepared.digest,
            "calibration": sets["calibration"].identity,
            "evaluation": sets["evaluation"].identity if self.evaluated else None,
            "method": self.pipeline.registry.methods.get(self.case.method),
            "cpu": list(instruction_sets()),
            "versions": versions(RUNTIME),
            "notes": dict(self.notes),
        }

    def code(self) -> tuple[object, ...]:
        return tuple(cause.find for cause in causes())

    def make(self, out: Path, store: Store) -> Notes | None:
        pipeline, passes = self.pipeline, self.passes
        model = _float_model(passes.prepared.path, pipeline.source.onnx, self.artifact.path)
        proto = load(model)
        samples = pipeline.evaluation_samples if self.evaluated else pipeline.calibration_samples
        count = FEW if activation_bytes(proto) > LARGE else MANY
        method = pipeline.registry.methods.get(self.case.method)
        light = pipeline.has_lighter_pass and (method is None or not method.needs_histogram)
        batches = spread(samples, count, fixed_batch(proto))
        evidence = Evidence(
            model=model,
            artifact=self.artifact.path,
            errors=errors(model, self.artifact.path, samples, count),
            answers_db=to_db(float(Answers(model, batches).noise(self.artifact.path).max())),
            batches=batches[:8],
            calibrated=passes.extremes if light else passes.statistics,
            method=None if method is None else method.name,
            calibration=input_facts(pipeline.calibration_samples),
            evaluation=input_facts(samples) if self.evaluated else {},
            mixed_saturates=saturates(),
        )
        names, fused = origins(Graph(proto.graph), Graph(load(pipeline.source.onnx).graph))
        found = tuple(replace(each, where=names.get(each.where, each.where)) for each in findings(evidence))
        shares = getattr(pipeline.registry.backend(self.case), "node_shares", None)
        times = None if shares is None else shares(model, batches[:2])
        table = tuple(replace(row, node=names.get(row.node, row.node)) for row in rows(evidence, fused, times))
        explanation = Explanation(
            self.case.id, found, table, evidence.errors.samples, "evaluation" if self.evaluated else "calibration",
            evidence.median, evidence.answers_db, dict(self.notes),
        )  # fmt: skip
        out.write_text(json.dumps(explanation.as_json(), sort_keys=True))
        return None


def explain(pipeline: Pipeline, case: Case, evaluated: bool = True) -> Explanation:
    """Why a case of a pipeline loses what it loses.

    A case whose artifact is no ONNX file is explained by a QDQ file with the same dtype, method and granularity, which
    the notes say. Raises `Unsupported` for the float case and for an artifact that is no ONNX file.
    """
    if case.is_float:
        raise Unsupported(f"{case}: is the float model: there is nothing to explain")
    notes, own = dict[str, str](), case
    if pipeline.registry.backend(case).suffix(case) != ".onnx":
        if case.method in pipeline.workload.artifacts or case.dtype not in DTYPES:
            raise Unsupported(f"{case}: is no ONNX file, but only those are compared layer by layer")
        method = case.method if case.method in pipeline.registry.methods else "minmax"
        own = replace(case, backend="onnxruntime", method=method, exclude=NONE)
        notes["explained by"] = (
            f"{own}, a QDQ file with the same dtype and granularity: {case.backend} has no such file"
        )
    timed = hasattr(pipeline.registry.backend(case), "node_shares")
    if not timed:
        notes["time"] = f"blank: {case.backend} does not say what a node takes"
    artifact = pipeline.artifact(own)
    notes |= {name: said for name, said in artifact.notes.items() if name in ("auto", "in float", "onnxruntime warned")}
    entry = pipeline.store.get(Explain(own, artifact, pipeline, evaluated, notes))
    found = Explanation.from_json(json.loads(entry.path.read_text()))
    table = found.rows if timed else tuple(replace(row, time=None) for row in found.rows)
    return replace(found, name=case.id, rows=table)


def _float_model(prepared: Path, original: Path, artifact: Path) -> Path:
    """The form of the float model that the artifact was made from: that with most of its tensor names."""
    quantized = Graph(load(artifact).graph)
    return max((prepared, original), key=lambda each: Pairing(Graph(load(each).graph), quantized).share)


def saturates() -> bool:
    """Whether kernels here add up unsigned times signed bytes in 16 bits: x86 without VNNI does."""
    isa = set(instruction_sets())
    return "avx2" in isa and not {"avx512_vnni", "avx_vnni"} & isa
