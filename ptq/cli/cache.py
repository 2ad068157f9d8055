"""`ptq cache`: what the store holds, and how to empty it."""

from __future__ import annotations

import click

from ptq.store import Store


@click.group(invoke_without_command=True)
@click.pass_context
def COMMAND(context: click.Context) -> None:
    """Show the folder of kept artifacts and what it holds; PTQ_CACHE moves it."""
    if context.invoked_subcommand is not None:
        return
    store = Store()
    click.echo(store.root)
    for kind, files, size in store.usage():
        click.echo(f"{kind:12} {files:6} files {size / 1e6:10.1f} MB")


@COMMAND.command()
def clear() -> None:
    """Remove everything ptq keeps."""
    store = Store()
    store.clear()
    click.echo(f"cleared {store.root}")
