"""`ptq report`: the page of a report that a run wrote as JSON."""

from __future__ import annotations

from pathlib import Path

import click

from ptq.api.model_file import check_apart
from ptq.api.text import printable
from ptq.cli.options import FILE, OUT
from ptq.report import html
from ptq.report.json import load
from ptq.report.layers import load_layers


@click.command(epilog="Example: ptq report out.json -o out.html")
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--layers", multiple=True, type=FILE, help="JSON of the SQNR of layers, to be shown; may be repeated.")
@click.option("-o", "--output", type=OUT, required=True, help="The page, .html.")
def COMMAND(report: Path, layers: tuple[Path, ...], output: Path) -> None:
    """Draw REPORT, of --ptq-json, as one self-contained page."""
    content, known = load(report), load_layers(layers)
    check_apart(output, report, *layers)
    html.write(output, content, known)
    click.echo(f"wrote {printable(output)} ({output.stat().st_size:,} bytes)")
