"""`ptq merge`: one verdict over the reports of all shards."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ptq.api.text import printable
from ptq.cli.options import FILE, OUT
from ptq.errors import BadData
from ptq.files import file_digest
from ptq.gate.bars import load_bars
from ptq.gate.reference import load_references
from ptq.gate.tally import Demand
from ptq.gate.whole import Whole
from ptq.report import html, markdown
from ptq.report import json as json_report
from ptq.report.findings import lines
from ptq.report.shards import Merged, merge
from ptq.report.table import table


@click.command(epilog="Example: ptq merge report-*.json --html ptq.html")
@click.argument("reports", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--bars", type=FILE, help="By default the file the shards had.")
@click.option("--json", "json_out", type=OUT, help="Write the whole report.")
@click.option("--html", "html_out", type=OUT, help="Write the whole report as one page.")
def COMMAND(reports: tuple[Path, ...], bars: Path | None, json_out: Path | None, html_out: Path | None) -> int:
    """Judge the run that the reports of all shards make.

    Each is written by pytest --ptq-shard I/N --ptq-json PATH. What only a whole run can be held to, as --ptq-require,
    --ptq-min-cases, --ptq-strict and bars without a case, is held here. Exit codes are those of pytest.
    """
    found = merge({str(path): json_report.load(path) for path in reports})
    complaints, notes = list(found.complaints), list(found.notes)
    try:
        whole, demand = _whole(found, bars)
        complaints += whole.gaps(found.tally, demand)
        lacking, told = whole.proof(found.tally, demand)
        complaints, notes = complaints + lacking, notes + told
    except BadData as error:
        complaints.append(str(error))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    writers = (
        (json_out, json_report.write), (html_out, html.write), (summary and Path(summary), markdown.append),
    )  # fmt: skip
    for path, write in writers:
        if path:
            write(path, found.content)
    _show(found, notes, complaints)
    if found.exit not in (0, 5):
        return found.exit
    return 1 if complaints else found.exit


def _whole(found: Merged, given: Path | None) -> tuple[Whole, Demand]:
    """What the run is held to; `BadData` where bars or references are not those the shards had."""
    options = found.part["options"]
    path = given or Path(str(options.get("bars")))
    bars, references = load_bars(path), load_references(path.with_name("reference.json"))
    for name, file in (("bars", path), ("references", references.path)):
        digest = file_digest(file) if file.is_file() else None
        if digest != options.get(f"{name}_digest"):
            raise BadData(f"{file}: is not what the shards were judged by: merge in a checkout of the same commit")
    required, least = options.get("require"), options.get("min_cases")
    if not isinstance(required, list) or not isinstance(least, int):
        raise BadData("the options of the shards are damaged: run them anew")
    environment = found.content["environment"]
    whole = Whole(
        bars=bars,
        references=references,
        cases=found.cases,
        names=frozenset(found.part["names"]),
        isa=(str(environment.get("platform")), *map(str, environment.get("isa", ()))),
        asked=str(options.get("markers")),
        skipped=found.skipped,
    )
    return whole, Demand(tuple(map(str, required)), least, options.get("strict") is True)


def _show(found: Merged, notes: list[str], complaints: list[str]) -> None:
    tally, color = found.tally, sys.stdout.isatty()
    if tally.results:
        click.echo(table(list(tally.results.values()), 160, color, list(tally.timings.values())), nl=False)
    for test, reason in (each for each in found.failed if len(each) == 2):
        click.echo(f"FAILED {printable(test)} - {printable(reason)}")
    for line in [*lines(tally), *notes]:
        click.echo(f"ptq: {printable(line)}")
    for line in complaints:
        click.secho(f"ptq: {printable(line)}", fg="red")
