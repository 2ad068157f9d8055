"""`ptq diff`: what got better, worse, appeared and vanished between two reports."""

from __future__ import annotations

from pathlib import Path

import click

from ptq.report.diff import diff
from ptq.report.json import read


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def COMMAND(old: Path, new: Path) -> int:
    """Compare two reports that --ptq-json wrote; exit 1 when a case is worse."""
    found = diff(read(old), read(new))
    for line in found.lines():
        click.echo(line)
    return 1 if found.worse else 0
