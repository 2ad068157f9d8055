"""Smaller: a report as github-action-benchmark reads it: ``customSmallerIsBetter``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptq.cases import FP32
from ptq.files import write_text
from ptq.gate.result import JUDGED
from ptq.report import unit
from ptq.report.timings import timings

Row = Mapping[str, Any]


def entries(content: Row) -> list[dict[str, Any]]:
    """``name, unit, value``, and ``range`` and ``extra`` where they are known: drops, time ratios and sizes.

    Of quantized cases alone: the float model is what all of it is measured against.
    """
    found = []
    for row in content["results"]:
        if row["verdict"] not in JUDGED or row["dtype"] == FP32:
            continue
        extra = f"{unit.of_value(row)} {unit.value(row, row['value'])}, n={row['n']}, {row['verdict']}"
        entry = {"name": f"{row['id']} drop", "unit": unit.of_drop(row), "value": row["drop"], "extra": extra}
        if row["interval"]:
            low, high = row["interval"]
            entry["range"] = f"{unit.drop(row, low)} to {unit.drop(row, high)}"
        found.append(entry)
        if row["size_bytes"]:
            found.append({"name": f"{row['id']} size", "unit": "bytes", "value": row["size_bytes"]})
    for race in timings(content):
        found.append({
            "name": f"{race['id']} time, batch {race['batch']}", "unit": f"time / {race['against']} time",
            "value": race["ratio"], "range": f"{race['low']:.3f} to {race['high']:.3f}",
            "extra": f"{race['other_ms']:.3g} ms against {race['reference_ms']:.3g} ms",
        })  # fmt: skip
    return found


def write(path: Path, content: Row) -> None:
    """Write them as JSON, whole or not at all."""
    write_text(path, json.dumps(entries(content), indent=1, allow_nan=False) + "\n")
