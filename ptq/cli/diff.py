"""`ptq diff`: what got better, worse, appeared and vanished between two reports."""

from __future__ import annotations

from pathlib import Path

import click

from ptq.api.text import printable
from ptq.report.diff import diff
from ptq.report.json import load
from ptq.report.markdown import changes


@click.command(epilog="Example: ptq diff main.json branch.json")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--markdown", is_flag=True, help="Write what changed as a comment on a pull request shows it.")
def COMMAND(old: Path, new: Path, markdown: bool) -> int:
    """Compare two reports of --ptq-json.

    Exit code 1 when a case is worse, or gone.
    """
    found = diff(load(old), load(new))
    if markdown:
        click.echo(changes(found), nl=False)
    for line in () if markdown else found.lines():
        click.echo(printable(line))
    return 1 if found.worse or found.vanished else 0
