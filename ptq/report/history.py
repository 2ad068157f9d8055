"""History: what every run gave, one line of JSON a run, so that a change shows where it came in.

A folder holds ``history.jsonl``, which runs append to; at a URL each run is a file of its own, since objects cannot be
appended to. A line is one object of schema ``ptq-history/1``:

- ``commit``, empty where there is none; ``date``, UTC; ``machine``: the platform and its instruction sets, which
  outcomes depend on; ``libraries``: versions.
- ``cases``: by id, ``metric, unit, higher_is_better, value, fp32_value, n, drop, agreement, sqnr_db, integer_share,
  size_bytes, verdict, red, evaluation, outcomes`` as in the report's ``results``.
- ``ratios``: by ``ID batch B against X``, ``ratio, low, high`` as in its ``latency``.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from filelock import FileLock

from ptq.data.content import LARGEST_JSON, read_bytes
from ptq.data.shape import check, check_fields
from ptq.errors import BadData, NotInstalled, one_line
from ptq.gate.reference import unpacked
from ptq.gate.result import JUDGED
from ptq.report.timings import timings

SCHEMA = "ptq-history/1"
FILE = "history.jsonl"
COMMITS = ("GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT", "BUILD_SOURCEVERSION")
"""Where GitHub, GitLab, Jenkins and Azure say which commit they run."""
_CASE = {
    "metric": str, "unit": str, "higher_is_better": bool, "value": float, "fp32_value": float | None, "n": int,
    "drop": float | None, "agreement": float | None, "sqnr_db": float | None, "integer_share": float | None,
    "size_bytes": int | None, "verdict": str, "red": bool, "evaluation": str | None, "outcomes": str | None,
}  # fmt: skip


class _Ratio(TypedDict):
    ratio: float
    low: float
    high: float


class _Line(TypedDict):
    commit: str
    date: str
    machine: str
    libraries: dict[str, str]
    cases: dict[str, dict[str, Any]]
    ratios: dict[str, _Ratio]


@dataclass(frozen=True)
class Past:
    """One run; the fields are those of its line."""

    commit: str
    date: str
    machine: str
    libraries: Mapping[str, str]
    cases: Mapping[str, Mapping[str, Any]]
    ratios: Mapping[str, Mapping[str, float]]

    @property
    def name(self) -> str:
        """The commit, shortened, else the date."""
        return self.commit[:10] or self.date


def past(content: Mapping[str, Any], commit: str, now: datetime | None = None) -> Past:
    """The run of a report, as `ptq.report.json.load` gives it; `now` is the present by default."""
    environment = content["environment"]
    machine = " ".join([str(environment.get("platform", "")), *map(str, environment.get("isa", []))])
    judged = [row for row in content["results"] if row["verdict"] in JUDGED]
    ratios = {
        f"{race['id']} batch {race['batch']} against {race['against']}": {
            name: race[name] for name in ("ratio", "low", "high")
        }
        for race in timings(content)
    }
    date = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    cases = {row["id"]: {name: row[name] for name in _CASE} for row in judged}
    return Past(commit, date, machine, environment.get("libraries", {}), cases, ratios)


def append(where: str | Path, run: Past) -> None:
    """Add a run to a folder's history, or to that at a URL.

    Runs that write at the same time each get their line. Raises `NotInstalled` for a URL without fsspec, `BadData`
    where the URL cannot be written.
    """
    line = json.dumps({"schema": SCHEMA, **run.__dict__}, sort_keys=True, allow_nan=False).encode() + b"\n"
    if _is_url(where):
        system, folder = _filesystem(str(where))
        name = f"{run.date.replace(':', '')}-{run.commit[:12] or 'none'}-{os.urandom(4).hex()}.jsonl"
        try:
            system.makedirs(folder, exist_ok=True)
            system.pipe(f"{folder}/{name}", line)
        except Exception as error:  # each file system has its own
            raise BadData(f"{where}: the history cannot be written ({one_line(error)})") from error
        return
    path = Path(where) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{FILE}.lock")), path.open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line  # whoever wrote last was killed
        file.write(line)


def load(where: str | Path) -> list[Past]:
    """Every run of a history, oldest first.

    Raises `BadData`, one line, for what is no history, and names the line that is damaged.
    """
    runs = [_past(line, name, number) for name, text in _files(where) for number, line in _lines(text)]
    if not runs:
        raise BadData(f"{where}: no run is in it, but should be: write one with --ptq-history")
    return sorted(runs, key=lambda run: run.date)


def commit_of(folder: Path) -> str:
    """The commit a run is of: what CI says, else that of the working copy; empty where there is none."""
    for name in COMMITS:
        if os.environ.get(name):
            return os.environ[name]
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _past(line: bytes, name: str, number: int) -> Past:
    try:
        content = json.loads(line)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise BadData(f"should be an object of schema {SCHEMA!r}")
        check(content, _Line, "run")
        for case_id, fields in content["cases"].items():
            check_fields(fields, _CASE, f"cases[{case_id!r}]")
            unpacked(fields["outcomes"], fields["n"])
        return Past(**{field: content[field] for field in Past.__dataclass_fields__})
    except (ValueError, BadData, RecursionError) as error:
        raise BadData(f"{name}: line {number} is damaged ({one_line(error)}): remove that line") from error


def _lines(text: bytes) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(text.split(b"\n"), 1) if line.strip())


def _files(where: str | Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every file of a history."""
    if _is_url(where):
        system, folder = _filesystem(str(where))
        try:
            for name in sorted(system.glob(f"{folder}/*.jsonl")):
                yield name, system.cat_file(name)
        except Exception as error:
            raise BadData(f"{where}: the history cannot be read ({one_line(error)})") from error
        return
    path = Path(where)
    found = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
    if not found:
        raise BadData(f"{where}: no history is there, but should be {FILE}: write it with --ptq-history")
    for each in found:
        yield str(each), read_bytes(each, LARGEST_JSON)


def _is_url(where: str | Path) -> bool:
    return "://" in str(where)


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise NotInstalled(f"{url}: a URL needs fsspec: pip install 'ptq[history]'") from error
    try:
        system, folder = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise BadData(f"{url}: no such file system ({one_line(error)})") from error
    return system, str(folder).rstrip("/")
