"""The command line: `ptq COMMAND`. One file a command, found by its name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import cast

import click

from ptq.errors import PtqError
from ptq.registry import modules

USER_ERROR = 2


def commands() -> click.Group:
    """The group with every command of this package."""
    group = click.Group("ptq", help="Post-training quantization by hand; the suite itself is `pytest -m accuracy`.")
    group = click.version_option(package_name="ptq")(group)
    for name, command in cast("dict[str, click.Command]", modules("ptq.cli", "COMMAND")).items():
        group.add_command(command, name)
    return group


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. What a user can mend is one line on stderr and exit code 2, never a traceback."""
    try:
        code = commands().main(args=arguments, prog_name="ptq", standalone_mode=False)
    except (PtqError, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"ptq: {' '.join(message.split())}", err=True)
        sys.exit(USER_ERROR)
    except click.Abort:
        click.echo("ptq: interrupted", err=True)
        sys.exit(130)
    except OSError as error:
        click.echo(f"ptq: {error.filename or 'file'}: {error.strerror or error}", err=True)
        sys.exit(USER_ERROR)
    sys.exit(code if isinstance(code, int) else 0)
