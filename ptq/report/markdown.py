"""Markdown: the summary of a run, for ``$GITHUB_STEP_SUMMARY``, and what changed between two, for a comment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptq.metrics.metric import SHARE
from ptq.report import unit
from ptq.report.diff import Diff
from ptq.report.findings import absent, complaints, counts, judged, untrue
from ptq.report.plain import plain
from ptq.report.ranking import tone, verdict
from ptq.report.ship import ship
from ptq.report.timings import Place, on_threads, places, timings

Row = Mapping[str, Any]
MOST_ROWS = 300
"""GitHub drops a summary above 1 MiB as a whole."""
MOST_CHANGES = 100
"""Of a kind: GitHub takes 65,536 characters in a comment."""
_MARKS = {"pass": "✅", "fail": "❌", "unresolved": "❔"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def summary(content: Row) -> str:
    """The summary of a report, as `ptq.report.json.load` gives it: what to ship, failures, tables, what was not run."""
    results: Sequence[Row] = content["results"]
    ranked, raced = judged(results), timings(content)
    lines = ["## ptq", "", *_list(ship(results, raced))]
    lines += [", ".join(f"{count} {name}" for name, count in counts(results)) or "no case", ""]
    lines += _list(complaints(content))
    if ranked:
        lines += ["| case | value | FP32 | drop | interval | n | integer | kB | verdict |"]
        lines += ["|---|--:|--:|--:|:-:|--:|--:|--:|---|", *map(_row, ranked[:MOST_ROWS])]
        lines += [f"\n{len(ranked) - MOST_ROWS} more cases are in the JSON report."] * (len(ranked) > MOST_ROWS) + [""]
    if raced:
        lines += ["| case | batch | against | time ratio | interval | executed | verdict |"]
        lines += ["|---|--:|---|--:|:-:|---|---|", *map(_raced, raced[:MOST_ROWS]), ""]
    if ranking := places(raced):
        lines += ["| place | case | batch | ms | time / fastest FP32 |", "|--:|---|--:|--:|--:|"]
        lines += [*map(_placed, ranking[:MOST_ROWS]), ""]
    lines += _list([*untrue(results), *absent(results)])
    return "\n".join(lines).rstrip() + "\n"


def changes(found: Diff) -> str:
    """What became of each case, as a comment on a pull request shows it."""
    kinds = {
        "worse": found.worse, "no longer judged": found.vanished, "better": found.better, "new": found.appeared,
    }  # fmt: skip
    counted = ", ".join(f"{len(lines)} {kind}" for kind, lines in kinds.items() if lines)
    lines = ["### ptq: " + (counted or "nothing changed") + f", {found.same} the same", ""]
    for kind, told in kinds.items():
        if told:
            more = [f"and {len(told) - MOST_CHANGES} more"] * (len(told) > MOST_CHANGES)
            lines += [f"**{kind}**", "", *_list([*told[:MOST_CHANGES], *more])]
    return "\n".join(lines).rstrip() + "\n"


def append(path: Path, content: Row) -> None:
    """Append the summary to the file other steps of the job write to as well."""
    with path.open("a", encoding="utf-8") as file:
        file.write(summary(content) + "\n")


def escape(text: str) -> str:
    """Text that markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", plain(text))


def _list(lines: Sequence[str]) -> list[str]:
    return [f"- {escape(line)}" for line in lines] + [""] * bool(lines)


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _raced(race: Row) -> str:
    return _cells(
        escape(race["id"]),
        str(race["batch"]),
        escape(race["against"]),
        f"{race['ratio']:.3f}{on_threads(race)}",
        f"{race['low']:.3f} … {race['high']:.3f}",
        escape(race["executed"]),
        f"{_MARKS[tone(race)]} {verdict(race)}",
    )


def _placed(place: Place) -> str:
    return _cells(str(place.number), escape(place.id), str(place.batch), f"{place.ms:.3g}", f"{place.ratio:.3f}")


def _row(row: Row) -> str:
    size, share = row["size_bytes"], row["integer_share"]
    of_value = "" if row["unit"] == SHARE else f" {escape(row['unit'])}"
    return _cells(
        escape(row["id"]),
        unit.value(row, row["value"]) + of_value,
        unit.value(row, row["fp32_value"]),
        f"{fell} {escape(unit.of_drop(row))}" if (fell := unit.drop(row, row["drop"])) else "",
        unit.interval(row, " … "),
        str(row["n"]),
        "" if share is None else f"{share:.0%}",
        "" if size is None else f"{size / 1000:.0f}",
        f"{_MARKS[tone(row)]} {verdict(row)}",
    )
