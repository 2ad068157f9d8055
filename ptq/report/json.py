"""The machine-readable report.

Schema ``ptq/1``, one object:

``schema``
    ``"ptq/1"``; the number rises when a field changes its meaning, not when one is added.
``environment``
    What `ptq.environment.environment` says of the machine and the libraries.
``results``
    One object per case, sorted by ``id``:

    - ``id, workload, backend, dtype, method, granularity, exclude``: the case; dtype of the float case is ``fp32``.
    - ``metric``: ``top1`` (value in 0..1; ``correct`` and ``fp32_correct`` count images) or ``map50_95``.
    - ``n, value, fp32_value, drop, interval, p``: drop and interval in percentage points, positive is worse; ``p`` of
      the paired test.
    - ``agreement``: share of equal decisions with FP32. ``sqnr_db``: of the outputs, null when equal to the bit.
    - ``per_class, fp32_per_class``: by class name, 0..1. ``details``: e.g. ``confusion`` counts, [label][decision].
    - ``size_bytes, fp32_size_bytes``; ``integer_share``: compute nodes that really run in integer, 0..1.
    - ``calibration``: ``n, seed, digest, method``; empty where nothing was calibrated here.
    - ``seconds``: ``calibrate, quantize, evaluate``, when it was made (perhaps in an earlier run).
    - ``verdict``: pass, fail, unresolved, unsupported, not_installed or no_data; ``reason``: one line; ``bar``.
    - ``evaluation``: digest of the evaluation samples; ``outcomes``: base64 of packed right/wrong bits.
    - ``notes``: what the backend said, by topic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptq.errors import BadData
from ptq.store import write_text

SCHEMA = "ptq/1"


def report(results: Sequence[Mapping[str, Any]], environment: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The report of `results` (as `Result.as_json` gives them), sorted by id; `more` are further top-level fields."""
    ordered = sorted(results, key=lambda each: str(each["id"]))
    return {"schema": SCHEMA, "environment": dict(environment), "results": ordered, **more}


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a report, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A report; `BadData` when the file is none or of another schema."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadData(f"{path}: not a ptq report ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        have = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise BadData(f"{path}: schema={have!r}, but should be {SCHEMA!r}; write it anew with --ptq-json")
    return content
