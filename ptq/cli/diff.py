"""`ptq diff`: what got better, worse, appeared and vanished between two reports."""

from __future__ import annotations

from pathlib import Path

import click

from ptq.api.text import printable
from ptq.report.diff import diff
from ptq.report.json import load


@click.command(epilog="Example: ptq diff main.json branch.json")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def COMMAND(old: Path, new: Path) -> int:
    """Compare two reports of --ptq-json.

    Exit code 1 when a case is worse, or gone.
    """
    found = diff(load(old), load(new))
    for line in found.lines():
        click.echo(printable(line))
    return 1 if found.worse or found.vanished else 0
