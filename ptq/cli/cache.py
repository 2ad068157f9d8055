"""`ptq cache`: what the store holds, and how to empty it."""

from __future__ import annotations

import click

from ptq.api.text import printable
from ptq.engine.durations import Durations
from ptq.engine.store import Store


@click.group(invoke_without_command=True, epilog="Example: ptq cache clear")
@click.pass_context
def COMMAND(context: click.Context) -> None:
    """Show what is kept, and where.

    PTQ_CACHE moves the folder.
    """
    if context.invoked_subcommand is not None:
        return
    store = Store()
    click.echo(printable(store.root))
    for kind, files, size in store.usage():
        click.echo(f"{kind:12} {files:6} files {size / 1e6:10.1f} MB")


@COMMAND.command(epilog="Example: ptq cache clear")
def clear() -> None:
    """Remove everything ptq keeps."""
    store = Store()
    store.clear()
    Durations(store.root).clear()
    click.echo(f"cleared {printable(store.root)}")
