"""`ptq history`: a page of all runs, and whether the newest is worse than it was."""

from __future__ import annotations

from pathlib import Path

import click

from ptq.api.text import printable
from ptq.cli.options import OUT
from ptq.errors import PtqError
from ptq.report import trend
from ptq.report.changes import series
from ptq.report.history import load


@click.command(epilog="Example: ptq history runs --fail-on regression")
@click.argument("where", metavar="DIR|URL")
@click.option("-o", "--output", type=OUT, help="The page; by default history.html in DIR.")
@click.option("--since", metavar="COMMIT", help="Leave out runs before the first of this commit: what is accepted.")
@click.option("--fail-on", type=click.Choice(["regression"]), help="Exit code 1 when a case is worse than it was.")
def COMMAND(where: str, output: Path | None, since: str | None, fail_on: str | None) -> int:
    """Draw the history that --ptq-history wrote, and name the changes.

    A change is told from chance by a paired test on the same images. A regression is a change for the worse that the
    newest run has not made good.
    """
    runs = load(where)
    if since is not None:
        starts = [place for place, run in enumerate(runs) if run.commit.startswith(since)]
        if not starts or not since:
            raise PtqError(
                f"{where}: no run of commit {since!r:.60}; there are those of {runs[0].name} to {runs[-1].name}"
            )
        runs = runs[starts[0] :]
    found = series(runs)
    for each in found:
        for step in each.changes:
            click.echo(printable(step.line()))
    page = output
    if page is None and "://" not in where:
        page = (Path(where) if Path(where).is_dir() else Path(where).parent) / "history.html"
    if page is not None:
        trend.write(page, runs, found)
        click.echo(f"wrote {printable(page)} ({page.stat().st_size:,} bytes)")
    regressed = [each for each in found if each.regression is not None]
    changed = sum(len(each.changes) for each in found)
    click.echo(f"{len(runs)} runs, {len(found)} lines of cases, {changed} changes, {len(regressed)} regressions")
    return 1 if fail_on and regressed else 0
