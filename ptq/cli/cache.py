"""`ptq cache`: what the store holds, on this machine and in what machines share, and how to empty it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection

import click

from ptq.api.text import printable
from ptq.engine.durations import Durations
from ptq.engine.remote import Held, given_remote
from ptq.engine.store import Store

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_shared = click.option("--store", "url", metavar="URL", help="What machines share; by default PTQ_STORE.")


@click.group(invoke_without_command=True, epilog="Example: ptq cache --store s3://bucket/ptq")
@_shared
@click.pass_context
def COMMAND(context: click.Context, url: str | None) -> None:
    """Show what is kept, and where.

    PTQ_CACHE moves the folder; PTQ_STORE names what machines share.
    """
    context.obj = url
    if context.invoked_subcommand is not None:
        return
    store = Store(remote=given_remote(url=url))
    click.echo(printable(store.root))
    for kind, files, size in store.usage():
        click.echo(f"{kind:12} {files:6} files {size / 1e6:10.1f} MB")
    if store.remote is not None:
        click.echo(printable(store.remote.name))
        entries, size = store.remote.usage()
        click.echo(f"{'shared':12} {entries:6} files {size / 1e6:10.1f} MB")


@COMMAND.command(epilog="Example: ptq cache clear")
def clear() -> None:
    """Remove everything ptq keeps on this machine."""
    store = Store()
    store.clear()
    Durations(store.root).clear()
    click.echo(f"cleared {printable(store.root)}")


@COMMAND.command(epilog="Example: ptq cache prune --older-than 30 --keep 20G --store s3://bucket/ptq")
@click.option("--older-than", "days", type=click.FloatRange(min=0), help="Remove what is older, in days.")
@click.option("--keep", metavar="SIZE", help="Remove the oldest until this is left, in bytes or as 500M, 20G.")
@_shared
@click.pass_obj
def prune(inherited: str | None, days: float | None, keep: str | None, url: str | None) -> None:
    """Remove the oldest.

    On this machine by its last use; with --store or PTQ_STORE also of what machines share, by when it was made.
    """
    if days is None and keep is None:
        raise click.UsageError("prune: neither --older-than nor --keep, but one should say what goes")
    goes = _oldest(days, None if keep is None else _bytes(keep))
    store = Store(remote=given_remote(url=url or inherited))
    levels = (
        [(store.root, store.prune)]
        if store.remote is None
        else [(store.root, store.prune), (store.remote.name, store.remote.prune)]
    )
    for name, level in levels:
        files, size = level(goes)
        click.echo(f"removed {files} files, {size / 1e6:.1f} MB, from {printable(name)}")


def _oldest(days: float | None, most: int | None) -> Callable[[Collection[Held]], Collection[str]]:
    """Which of what is held goes: what is older than so many days, then the oldest until `most` bytes are left."""

    def goes(held: Collection[Held]) -> Collection[str]:
        before = -1.0 if days is None else time.time() - days * 86400
        gone, left = [], sum(each.size for each in held)
        for each in held:  # oldest first
            if each.when < before or (most is not None and left > most):
                gone.append(each.key)
                left -= each.size
        return gone

    return goes


def _bytes(size: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", size)
    if found is None:
        raise click.BadParameter(f"--keep {size}: should be bytes, or as 500M or 20G")
    return int(float(found[1]) * _UNITS[found[2]])
