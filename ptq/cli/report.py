"""`ptq report`: what a run wrote as JSON, as a page or as figures for github-action-benchmark."""

from __future__ import annotations

from pathlib import Path

import click

from ptq.api.model_file import check_apart
from ptq.api.text import printable
from ptq.cli.options import FILE, OUT
from ptq.report import html, smaller
from ptq.report.json import load
from ptq.report.layers import load_layers


@click.command(epilog="Example: ptq report out.json -o out.html")
@click.argument("report", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=OUT, help="The page, .html.")
@click.option("--layers", multiple=True, type=FILE, help="JSON of the SQNR of layers, for the page; may be repeated.")
@click.option(
    "--benchmark", type=OUT, help="Figures, .json, that github-action-benchmark reads: customSmallerIsBetter."
)
def COMMAND(report: Path, output: Path | None, layers: tuple[Path, ...], benchmark: Path | None) -> None:
    """Draw REPORT, of --ptq-json, as one self-contained page, or write its figures."""
    if output is None and benchmark is None:
        raise click.UsageError("nothing to write: name a page with -o, or a file with --benchmark")
    content, known = load(report), load_layers(layers)
    for path in (output, benchmark):
        if path is not None:
            check_apart(path, report, *layers)
    if output is not None:
        html.write(output, content, known)
    if benchmark is not None:
        smaller.write(benchmark, content)
    for path in (output, benchmark):
        if path is not None:
            click.echo(f"wrote {printable(path)} ({path.stat().st_size:,} bytes)")
