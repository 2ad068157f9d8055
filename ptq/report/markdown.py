"""The markdown summary of a run, as GitHub shows it for ``$GITHUB_STEP_SUMMARY``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptq.report.timings import timings
from ptq.result import FAIL, JUDGED, PASS, UNRESOLVED

MOST_ROWS = 300
"""GitHub drops a summary above 1 MiB as a whole."""
_MARKS = {PASS: "✅", FAIL: "❌", UNRESOLVED: "❔"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def summary(content: Mapping[str, Any]) -> str:
    """The summary of a report, as `ptq.report.json.read` gives it: failures, the table, what was not run."""
    results: Sequence[Mapping[str, Any]] = content["results"]
    judged = [each for each in results if each["verdict"] in JUDGED]
    counts = Counter(str(each["verdict"]) for each in results)
    lines = [
        "## ptq",
        "",
        ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items())) or "no case",
        "",
    ]
    told = [each["reason"] for each in judged if each["verdict"] != PASS]
    told += [each["reason"] for each in timings(content) if each["verdict"] != PASS]
    told += [each["reference"]["line"] for each in judged if (each.get("reference") or {}).get("worse")]
    lines += [f"- {escape(each)}" for each in told] + [""] * bool(told)
    if judged:
        lines += ["| case | value | FP32 | drop, pp | interval, pp | n | integer | kB | verdict |"]
        lines += ["|---|--:|--:|--:|:-:|--:|--:|--:|---|"]
        ranked = sorted(
            judged, key=lambda each: (each["workload"], each["dtype"] != "fp32", -each["value"], each["id"])
        )
        lines += [_row(each) for each in ranked[:MOST_ROWS]]
        lines += [f"\n{len(ranked) - MOST_ROWS} more cases are in the JSON report."] * (len(ranked) > MOST_ROWS) + [""]
    if raced := timings(content):
        lines += ["| case | batch | against | time ratio | interval | executed | verdict |"]
        lines += ["|---|--:|---|--:|:-:|---|---|", *[_raced(each) for each in raced[:MOST_ROWS]], ""]
    absent = Counter(_absence(each) for each in results if each["verdict"] not in JUDGED)
    lines += [f"- {escape(workload)}: {count} {escape(why)}" for (workload, why), count in sorted(absent.items())]
    return "\n".join(lines).rstrip() + "\n"


def append(path: Path, content: Mapping[str, Any]) -> None:
    """Append the summary to the file other steps of the job write to as well."""
    with path.open("a", encoding="utf-8") as file:
        file.write(summary(content) + "\n")


def escape(text: str) -> str:
    """Text that markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _absence(result: Mapping[str, Any]) -> tuple[str, str]:
    words = result["verdict"].replace("_", " ")
    return result["workload"], f"{words}: {result['reason'].removeprefix(words + ': ')}"


def _raced(timing: Mapping[str, Any]) -> str:
    cells = [
        escape(timing["id"]),
        str(timing["batch"]),
        escape(timing["against"]),
        f"{timing['ratio']:.3f}",
        f"{timing['low']:.3f} … {timing['high']:.3f}",
        escape(timing.get("executed") or ""),
        f"{_MARKS[timing['verdict']]} {timing['verdict']}",
    ]
    return "| " + " | ".join(cells) + " |"


def _row(result: Mapping[str, Any]) -> str:
    interval, size, share = result.get("interval"), result.get("size_bytes"), result.get("integer_share")
    drop, fp32 = result.get("drop"), result.get("fp32_value")
    cells = [
        escape(str(result["id"])),
        f"{result['value']:.4f}",
        "" if fp32 is None else f"{fp32:.4f}",
        "" if drop is None else f"{drop:+.2f}",
        "" if not interval else f"{interval[0]:+.2f} … {interval[1]:+.2f}",
        str(result["n"]),
        "" if share is None else f"{share:.0%}",
        "" if size is None else f"{size / 1000:.0f}",
        f"{_MARKS[result['verdict']]} {result['verdict']}",
    ]
    return "| " + " | ".join(cells) + " |"
