"""The machine-readable report.

Schema ``ptq/1``, one object:

``schema``
    ``"ptq/1"``; the number rises when a field changes its meaning, not when one is added.
``environment``
    What `ptq.environment.environment` says of the machine and the libraries: ``python, platform, cpu, isa, cores,
    libraries``.
``results``
    One object per case, sorted by ``id``:

    - ``id, workload, backend, dtype, method, granularity, exclude``: the case; dtype of the float case is ``fp32``.
    - ``metric``: ``top1``, ``map50_95`` or what the workload's metric is called; its value is in 0..1.
    - ``correct, fp32_correct``: images that are right, null where the metric does not count them.
    - ``n, value, fp32_value, drop, interval, p``: drop and interval in percentage points, positive is worse; ``p`` of
      the paired test.
    - ``agreement``: share of equal decisions with FP32. ``sqnr_db``: of the outputs, null when equal to the bit.
    - ``per_class, fp32_per_class``: by class name, 0..1. ``details``: what else the metric says, as top1's
      ``confusion`` counts, [label][decision].
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
    - ``other_ms, reference_ms``: median ms per call of the case and of what it ran against.
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
from typing import Any

from ptq.errors import BadData, PtqError
from ptq.result import Result
from ptq.store import write_text

SCHEMA = "ptq/1"
Row = Mapping[str, Any]


def report(
    results: Sequence[Row],
    environment: Mapping[str, Any],
    latency: Sequence[Row] = (),
    structure: Sequence[Row] = (),
    speed: Mapping[str, Row] | None = None,
) -> dict[str, Any]:
    """The report of `results`, `latency` and `structure`, as `Result`, `Timing` and `Structure` give them; sorted."""
    races = sorted(latency, key=lambda each: (each["id"], each["against"], each["batch"]))
    merged = [
        {**each, "latency": [race for race in races if each["id"] in race["stands_for"]]}
        for each in sorted(results, key=lambda each: str(each["id"]))
    ]
    counted = sorted(structure, key=lambda each: str(each["id"]))
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
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A report; `BadData` when the file is none, of another schema, or damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadData(f"{path}: not a ptq report ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        have = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise BadData(f"{path}: schema={have!r}, but should be {SCHEMA!r}; write it anew with --ptq-json")
    try:
        for each in content["results"]:
            Result.from_json(each)
        for each in content.get("latency") or []:
            _ = each["id"], each["batch"], each["against"], each["ratio"], each["low"], each["high"]
    except (AttributeError, KeyError, TypeError, PtqError) as error:
        raise BadData(f"{path}: a result is not as --ptq-json writes it ({error!r}); write it anew") from error
    return content
