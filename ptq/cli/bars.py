"""`ptq bars`: whether the bars and the references beside them are sound, without running a model."""

from __future__ import annotations

from pathlib import Path

import click

from ptq.api.text import printable
from ptq.errors import PtqError
from ptq.gate.bars import load_bars
from ptq.gate.review import review

USUAL = (Path("tests/bars.toml"), Path("bars.toml"))


@click.command(epilog="Example: ptq bars tests/bars.toml")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def COMMAND(files: tuple[Path, ...]) -> int:
    """Check FILES of bars, and reference.json beside each; by default those in the usual place.

    No model is run and no data read, so it can be a hook of pre-commit. Exit code 1 when something is wrong.
    """
    given = files or tuple(path for path in USUAL if path.is_file())
    if not given:
        raise PtqError(f"no bars: {USUAL[0]} and {USUAL[1]} are not there; name the file")
    # pre-commit names whatever changed: of references, the bars are beside them
    bars = dict.fromkeys(path.with_name("bars.toml") if path.suffix == ".json" else path for path in given)
    lines = [line for path in bars for line in review(path)]
    for line in lines:
        click.echo(printable(line))
    if not lines:
        click.echo(
            printable(f"{', '.join(map(str, bars))}: {sum(len(load_bars(path).bars) for path in bars)} bars, sound")
        )
    return 1 if lines else 0
