"""Shards: what each tells of itself in its report, under ``shard``, and the whole that all of them make.

``number, of``: which it is. ``plan``: digest of what the parts were cut by. ``commit``: of the sources, null where no
git knows. ``options``: what a whole run is held to, and what decides a verdict. ``whole, own, ran``: ids of all
selected tests, of those of this shard, and of those that came to an end. ``cases``: the fields of all cases there could
be; ``names``: all workloads and backends. ``checked, gates, absent``: as `ptq.gate.tally.Tally` has them; ``skipped``:
tests that others skipped, by marker. ``exit``: code of the process; ``failed``: id and reason of what failed;
``complaints``: what else makes it red.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ptq.cases import Case
from ptq.data.shape import check
from ptq.errors import BadData, PtqError, one_line
from ptq.gate.result import Result
from ptq.gate.tally import Tally
from ptq.report import json as json_report

_ALIKE = ("of", "plan", "commit", "options", "whole", "cases", "names")
_WORDS = {
    "of": "number of shards", "plan": "plan", "commit": "commit", "options": "options", "whole": "selection of tests",
    "cases": "cases", "names": "workloads or backends",
}  # fmt: skip


class Part(TypedDict):
    """What a shard tells of itself."""

    number: int
    of: int
    plan: str
    commit: str | None
    options: dict[str, Any]
    whole: list[str]
    own: list[str]
    ran: list[str]
    cases: list[list[str]]
    names: list[str]
    checked: list[str]
    gates: int
    absent: dict[str, int]
    skipped: dict[str, int]
    exit: int
    failed: list[list[str]]
    complaints: list[str]


@dataclass(frozen=True)
class Merged:
    """The whole: its report, its tally, what every shard says alike, and why it is none, a line each."""

    content: dict[str, Any]
    tally: Tally
    part: Part
    cases: tuple[Case, ...]
    skipped: Mapping[str, int]
    failed: list[list[str]]
    complaints: list[str]
    notes: list[str]
    exit: int


def part_of(content: Mapping[str, Any], name: str) -> Part:
    """What the report called `name` says of its shard; `BadData`, one line, where it is none or damaged."""
    if "shard" not in content:
        raise BadData(f"{name}: is no shard's report, but should be: write it with --ptq-shard and --ptq-json")
    part: Part = content["shard"]
    try:
        check(part, Part, "shard")
        _cases(part)
        if not 0 <= part["exit"] < 256:
            raise BadData(f"shard.exit={part['exit']}, but should be the exit code of a process")
    except (PtqError, ValueError, TypeError) as error:
        raise BadData(f"{name}: {one_line(error)}; the file is damaged: write it anew with --ptq-json") from error
    return part


def merge(reports: Mapping[str, Mapping[str, Any]]) -> Merged:
    """One report of several, by the names of their files, each as `ptq.report.json.load` gives it.

    Raises `BadData` where there is none, or one is no shard's.
    """
    if not reports:
        raise BadData("no report, but there should be one of every shard")
    parts = {name: part_of(content, name) for name, content in reports.items()}
    names = sorted(parts, key=lambda name: (parts[name]["number"], name))
    contents, ordered = [reports[name] for name in names], [parts[name] for name in names]
    first = ordered[0]
    tally, skipped = Tally(), Counter[str]()
    for content, part in zip(contents, ordered, strict=True):
        tally.results |= {row["id"]: Result.from_json(row) for row in content["results"]}
        tally.structures |= {row["id"]: row for row in content["structure"]}
        tally.timings |= {f"{row['id']} {row['batch']} {row['against']}": row for row in content["latency"]}
        tally.speed |= content["speed"]
        tally.checked |= set(part["checked"])
        tally.gates += part["gates"]
        tally.absent.update(part["absent"])
        skipped.update(part["skipped"])
    cases = tuple(dict.fromkeys(case for part in ordered for case in _cases(part)))
    known, measured = {case.id for case in cases}, {*tally.results, *(row["id"] for row in tally.structures.values())}
    if strange := sorted((measured | {row["id"] for row in tally.timings.values()}) - known):
        raise BadData(f"{len(strange)} measurements are of no case of the run, the first: {strange[0]!r:.80}: run anew")
    environment, differ, notes = _environment(dict(zip(names, contents, strict=True)))
    complaints = _incomplete(parts) + differ + _unlike(names, parts) + _tests(ordered)
    for part in ordered:
        complaints += [line for line in part["complaints"] if line not in complaints]
    exits = [part["exit"] for part in ordered]
    return Merged(
        content=json_report.report(**tally.rows(), environment=environment),
        tally=tally,
        part=first,
        cases=cases,
        skipped=skipped,
        failed=[each for part in ordered for each in part["failed"]],
        complaints=complaints,
        notes=notes,
        # 0: all passed, 1: some failed, 5: none was selected; the others are ends that no run should come to
        exit=max((code for code in exits if code not in (0, 1, 5)), default=1 if 1 in exits else min(exits)),
    )


def _cases(part: Part) -> tuple[Case, ...]:
    return tuple(Case(*fields) for fields in part["cases"])


def _incomplete(parts: Mapping[str, Part]) -> list[str]:
    """What is missing or there twice, by number."""
    of = max(part["of"] for part in parts.values())
    by_number: dict[int, list[str]] = {}
    for name, part in parts.items():
        by_number.setdefault(part["number"], []).append(name)
    missing = [str(number) for number in range(1, min(of, 10_000) + 1) if number not in by_number]
    lines = []
    if missing:
        lines.append(f"{len(missing)} of {of} shards are missing: {', '.join(missing[:20])}: give the reports of all")
    lines += [
        f"shard {number}/{of} is there {len(names)} times: {', '.join(sorted(names))}: give each report once"
        for number, names in sorted(by_number.items())
        if len(names) > 1
    ]
    return lines


def _unlike(names: Sequence[str], parts: Mapping[str, Part]) -> list[str]:
    """Where shards are not of one run."""
    first, lines = names[0], []
    for field in _ALIKE:
        others = [name for name in names[1:] if parts[name].get(field) != parts[first].get(field)]
        if others:
            ours, theirs = (_shown(parts[name].get(field)) for name in (first, others[0]))
            if field == "options":
                a, b = parts[first]["options"], parts[others[0]]["options"]
                key = min(key for key in {*a, *b} if a.get(key) != b.get(key))
                ours, theirs = (f"{key}={_shown(each.get(key))}" for each in (a, b))
            lines.append(
                f"{others[0]} and {first} are of another {_WORDS[field]} ({theirs}, {ours}), but should be of one run"
            )
    return lines


def _tests(parts: Sequence[Part]) -> list[str]:
    """What of the selection is in no shard, in two, or did not come to an end."""
    own = Counter(test for part in parts for test in part["own"])
    whole = {test for part in parts for test in part["whole"]}
    lines = []
    for tests, words in (
        (sorted(whole - set(own)), "are in no shard"),
        (sorted(test for test, count in own.items() if count > 1), "are in more than one shard"),
        (sorted({test for part in parts for test in set(part["own"]) - set(part["ran"])}), "did not come to an end"),
    ):
        if tests:
            lines.append(f"{len(tests)} of {len(whole)} selected tests {words}, the first: {tests[0]}")
    return lines


def _environment(contents: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], list[str], list[str]]:
    """(the environment of all, where libraries differ, where machines do)."""
    (first, found), *others = ((name, dict(content["environment"])) for name, content in contents.items())
    complaints, notes = [], []
    for name, other in others:
        for field in sorted({*found, *other}):
            if found.get(field) == other.get(field):
                continue
            ours, theirs = found.get(field), other.get(field)
            if isinstance(ours, dict) and isinstance(theirs, dict):
                key = min(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
                ours, theirs = f"{key} {ours.get(key)}", f"{key} {theirs.get(key)}"
            line = f"{name} ran with {field} {_shown(theirs)}, {first} with {_shown(ours)}"
            if field in ("python", "libraries"):
                complaints.append(f"{line}: give all shards the same")
            else:
                notes.append(f"{line}; the report names that of {first}")
    return found, complaints, notes


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} of them" if value and len(value) > 4 else ", ".join(map(str, value)) or "none"
    return f"{value!s:.60}"
