"""The machine-readable report.

Schema ``ptq/1``, one object:

``schema``
    ``"ptq/1"``; the number rises when a field changes its meaning, not when one is added.
``environment``
    What `ptq.engine.environment` says of the machine and the libraries: ``python, platform, cpu, isa, cores,
    libraries``.
``results``
    One object per case, sorted by ``id``:

    - ``id, workload, backend, dtype, method, granularity, exclude``: the case; dtype of the float case is ``fp32``.
    - ``metric``: ``top1``, ``map50_95`` or what the workload's metric is called. ``unit``: ``share`` for values in
      0..1, else the unit of its values. ``higher_is_better``: false for a loss. ``has_drop``: false where the
      value is a distance to the float model already, so that drop says nothing.
    - ``truth``: ``given``, or ``float model`` where no targets were: values are against its answers then.
    - ``correct, fp32_correct``: images that are right, null where the metric does not count them.
    - ``n, value, fp32_value, drop, interval, p``: drop and interval in percentage points for a share, else in the
      metric's unit, positive is worse whatever the direction; ``p`` of the paired test.
    - ``agreement``: share of equal decisions with FP32. ``sqnr_db``: of the outputs, null when equal to the bit.
      ``cosine``: mean over samples of the cosine of the outputs with FP32's, null where they cannot be compared.
    - ``per_class, fp32_per_class``: by class name, in the metric's unit. ``details``: what else the metric says, as
      top1's ``confusion``, [label, decision, count] of each pair there is.
    - ``size_bytes, fp32_size_bytes``; ``integer_share``: compute nodes that really run in integer, 0..1.
    - ``calibration``: ``n, seed, digest, method``; empty where nothing was calibrated here.
    - ``seconds``: ``calibrate, quantize, evaluate``, when it was made (perhaps in an earlier run).
    - ``verdict``: pass, fail, unresolved, unsupported, not_installed or no_data; ``reason``: one line; ``bar``: what
      is set of it; ``red``: whether the test fails by the bar or the reference.
    - ``reference``: ``value, worse, line`` against what the case gave last, null where there is none to compare.
    - ``evaluation``: digest of the evaluation samples; ``outcomes``: base64 of packed right/wrong bits.
    - ``notes``: what the backend said, by topic.
    - ``latency``: the objects of the report's ``latency`` that stand for this case; methods share a graph's.

    Of a case that was not measured, the numbers are null and the mappings empty.
``latency``
    One object per race, sorted by ``id``, ``against`` and ``batch``:

    - ``id, workload, backend, dtype, method, granularity, exclude``: the case that was timed.
    - ``stands_for``: ids of every case that runs the same graph, its own among them.
    - ``batch``: inputs per call. ``against``: ``fp32``, or ``base`` for an artifact of another revision.
    - ``ratio, low, high, confidence``: time / time of the other and its interval, below 1 is faster; ``speedup``:
      1 / ratio.
    - ``other_ms, reference_ms``: median ms per call of the case and of what it ran against. These are of processor
      time, on one thread.
    - ``wall_ratio, wall_low, wall_high, wall_other_ms, wall_reference_ms``: the same calls by the wall clock.
    - ``threads``: all that the process may use; ``threads_ratio, threads_low, threads_high, threads_other_ms,
      threads_reference_ms``: on so many, by the wall clock; null where that is one.
    - ``rival``: id of the case it ran against. ``fastest_fp32``: id of the fastest float case of any runtime at this
      batch, null where none took part; ``fastest_fp32_ratio, fastest_fp32_low, fastest_fp32_high,
      fastest_fp32_other_ms, fastest_fp32_reference_ms``: against it, by processor time on one thread.
    - ``finding``: one line where clocks or threads tell different ratios, null where they agree.
    - ``rounds, seconds``: what measuring took.
    - ``executed``: in words, what runs in integer. ``verdict, reason, red``: as in ``results``.
``structure``
    One object per census, sorted by ``id``:

    - ``id, workload, backend, dtype, method, granularity, exclude``: the case that was counted.
    - ``integer, floating``: compute nodes the runtime executes in integer and in float, counts by op type;
      ``integer_share``: of all, 0..1.
    - ``stray``: quantize and dequantize nodes left around float kernels; ``float_nodes``: names of those.
    - ``weight_bytes``: by element type. ``simulated``: why integer execution is only simulated, null when it is real.
    - ``cause``: likely cause of the float nodes, null when there is none. ``verdict, reason, red``: as in ``results``.
``speed``
    What ptq's own benchmark measured (``pytest -m speed``): by name, ``value`` and ``bar``; empty without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

from ptq.cases import Case
from ptq.data.content import read_json
from ptq.data.shape import check, check_fields
from ptq.errors import BadData, PtqError, one_line
from ptq.files import write_text
from ptq.gate.reference import References
from ptq.gate.result import JUDGED, NO_DATA, NOT_INSTALLED, UNSUPPORTED, Result
from ptq.report.timings import MEASURED, Race

SCHEMA = "ptq/1"
Row = Mapping[str, Any]
_ADDED = ("unit", "higher_is_better", "truth", "cosine", "has_drop")
"""Fields of a result that reports of an earlier ptq lack; their defaults are what was the case then."""
_FIELDS = {"id": str, **get_type_hints(Case), **get_type_hints(Result)}
del _FIELDS["case"]
_ENVIRONMENT = {"python": str, "platform": str, "isa": list[str], "libraries": dict[str, str]}
_VERDICTS = JUDGED | {UNSUPPORTED, NOT_INSTALLED, NO_DATA}


class _Reference(TypedDict):
    value: float
    worse: bool
    line: str


class _Structure(TypedDict):
    id: str
    integer: dict[str, int]
    floating: dict[str, int]
    stray: int
    float_nodes: list[str]
    weight_bytes: dict[str, int]
    integer_share: float
    simulated: str | None
    cause: str | None
    verdict: str
    reason: str
    red: bool


class _Report(TypedDict):
    environment: dict[str, str | int | float | list[str] | dict[str, str] | None]
    results: list[dict[str, Any]]
    latency: list[Race]
    structure: list[_Structure]
    speed: dict[str, dict[str, str | float | bool | None]]


def report(
    results: Sequence[Row],
    environment: Mapping[str, Any],
    latency: Sequence[Row] = (),
    structure: Sequence[Row] = (),
    speed: Mapping[str, Row] | None = None,
) -> dict[str, Any]:
    """The report of `results`, `latency` and `structure`, as `Result`, `Timing` and `Structure` give them; sorted."""
    races = sorted(latency, key=lambda race: (race["id"], race["against"], race["batch"]))
    merged = [
        {**row, "latency": [race for race in races if row["id"] in race["stands_for"]]}
        for row in sorted(results, key=lambda row: str(row["id"]))
    ]
    counted = sorted(structure, key=lambda row: str(row["id"]))
    return {
        "schema": SCHEMA,
        "environment": dict(environment),
        "results": merged,
        "latency": races,
        "structure": counted,
        "speed": dict(speed or {}),
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a report, whole or not at all."""
    try:
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    except RecursionError as error:  # of keys that only another program knows
        raise BadData(f"{path}: not written: what the report says is nested too deeply; write it anew") from error
    write_text(path, text + "\n")


def load(path: Path) -> dict[str, Any]:
    """A report as `report` made it, of this ptq or an earlier one.

    Raises `BadData`, one line, when the file is none, of another schema, or damaged: every field that a report shows is
    checked for its type, so that what reads the report need not.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise BadData(f"{path}: not a ptq report ({one_line(error)})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        have = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise BadData(f"{path}: schema={have!r:.80}, but should be {SCHEMA!r}; write it anew with --ptq-json")
    content = {"latency": [], "structure": [], "speed": {}, **content}
    try:
        check(content, _Report, "report")
        known = {name: hint for name, hint in _ENVIRONMENT.items() if name in content["environment"]}
        check_fields(content["environment"], known, "environment")
        for index, row in enumerate(content["results"]):
            row.update({name: Result.__dataclass_fields__[name].default for name in _ADDED if name not in row})
            _check(row, f"results[{index}]")
        for index, race in enumerate(content["latency"]):
            race.update({name: None for name in MEASURED if name not in race})
            check_fields(race, MEASURED, f"latency[{index}]")
            if min(race["ratio"], race["low"], race["high"]) <= 0 or race["verdict"] not in JUDGED:
                raise BadData(f"latency[{index}] is of {race['id']}, but its verdict or its time ratios are impossible")
        if len(ids := {row["id"] for row in content["results"]}) < len(content["results"]):
            raise BadData(f"{len(content['results'])} results, but only {len(ids)} different ids")
        json.dumps(content, allow_nan=False)  # else it could not be written again
    except (PtqError, ValueError, RecursionError) as error:
        raise BadData(f"{path}: {one_line(error)}; the file is damaged: write it anew with --ptq-json") from error
    return content


def _check(row: dict[str, Any], name: str) -> None:
    """Raise `PtqError` or `ValueError` for a result that is not as `Result` gives it."""
    check_fields(row, _FIELDS, name)
    result = Result.from_json(row)
    if row["id"] != result.case.id:
        raise BadData(f"{name}.id={row['id']!r:.80}, but should be {result.case.id!r} by its other fields")
    if row["verdict"] not in _VERDICTS or (result.judged and (row["value"] is None or row["n"] < 1)):
        raise BadData(f"{name}: verdict={row['verdict']!r:.20}, value={row['value']}, n={row['n']} cannot be")
    if min(row["size_bytes"] or 0, row["fp32_size_bytes"] or 0) < 0:
        raise BadData(f"{name}: size_bytes={row['size_bytes']} cannot be")
    if row["reference"]:
        check(row["reference"], _Reference, f"{name}.reference")
    References(Path()).updated([result], {}, {result.case.id}).compare(result)  # outcomes that are damaged raise
