"""The metric columns: what a layer costs alone, and what is regained when it alone stays in float; measured for few."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ptq.cases import NONE, Case
from ptq.diagnosis.evidence import MOVES
from ptq.diagnosis.explanation import Explanation, Row
from ptq.engine.pipeline import Pipeline
from ptq.engine.workload import Workload
from ptq.errors import PtqError
from ptq.models.graph import Graph
from ptq.models.onnx_file import load

CONFIDENCE = 0.95
MOST = 3
"""Layers that are measured at most."""


def with_metric(found: Explanation, pipeline: Pipeline, case: Case, seconds: float) -> Explanation:
    """`found` with `lost` and `regained` of its worst layers, as many as `seconds` allow, judging by how long the case
    itself took to evaluate. Artifacts, predictions and scores are kept in the store.

    A case whose backend keeps no node in float on demand has no such columns.
    """
    if seconds == 0 or case.backend != "onnxruntime" or case.method in pipeline.workload.artifacts:
        return found
    whole = pipeline.measured(case, CONFIDENCE)
    taken = sum(each or 0.0 for name, each in whole.seconds.items() if name != "calibrate")
    most = min(MOST, int(seconds / max(2 * taken, 1e-3)))
    names = {node.name for node in Graph(load(pipeline.passes_of(case).prepared.path).graph).nodes}
    own = [row for row in found.rows if row.integer and row.node in names and row.kind not in MOVES]
    worst = sorted(own, key=lambda row: row.kept)[:most]
    known = pipeline.workload.exclude if case.exclude != NONE else ()
    measured: dict[str, tuple[float | None, float | None]] = {}
    start = time.monotonic()
    for row in worst:
        if time.monotonic() - start > seconds - 2 * taken:  # a busy machine takes longer than it did
            break
        others = sorted(names - {row.node})
        lost = _drop(pipeline, case, others)
        left = _drop(pipeline, case, [*known, row.node])
        measured[row.node] = lost, None if left is None else whole.compared.interval.drop - left
    return replace(found, rows=tuple(_filled(row, measured) for row in found.rows))


def _drop(pipeline: Pipeline, case: Case, exclude: Sequence[str]) -> float | None:
    """The drop of a case with some nodes in float; None where there is nothing left to quantize."""
    workload: Workload = replace(pipeline.workload, exclude=tuple(exclude))
    other = Pipeline(workload, pipeline.store, pipeline.registry)
    try:
        return other.measured(replace(case, exclude="auto"), CONFIDENCE).compared.interval.drop
    except PtqError:
        return None


def _filled(row: Row, measured: dict[str, tuple[float | None, float | None]]) -> Row:
    lost, regained = measured.get(row.node, (None, None))
    return replace(row, lost=lost, regained=regained)
