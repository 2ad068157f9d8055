"""The command line: `ptq COMMAND`. One file a command, found by its name."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from typing import Any, cast

import click

from ptq.api.text import printable
from ptq.data.inputs import load_module
from ptq.engine.registry import Registry, modules
from ptq.errors import BadData, PtqError, one_line

USER_ERROR = 2


def commands() -> click.Group:
    """The group with every command of this package."""

    @click.group("ptq", epilog="Example: ptq quantize model.onnx --calibration images.npy -o int8.onnx")
    @click.option(
        "--plugin", "plugins", multiple=True, metavar="FILE.py|MODULE",
        help="Load backends and methods from what defines pytest_ptq_backends or pytest_ptq_methods; may be repeated.",
    )  # fmt: skip
    @click.version_option(package_name="ptq")
    @click.pass_context
    def group(context: click.Context, plugins: tuple[str, ...]) -> None:
        """Post-training quantization by hand; the suite itself is `pytest -m accuracy`."""
        loaded = [_loaded(plugin) for plugin in plugins]
        context.obj = Registry(
            tuple(part for module in loaded for part in _hook(module, "pytest_ptq_backends")),
            tuple(part for module in loaded for part in _hook(module, "pytest_ptq_methods")),
        )

    for name, command in cast("dict[str, click.Command]", modules("ptq.cli", "COMMAND")).items():
        group.add_command(command, name)
    return group


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. What a user can mend is one line on stderr and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a locale cannot say is written out
            stream.reconfigure(errors="backslashreplace")
    try:
        code = commands().main(args=arguments, prog_name="ptq", standalone_mode=False)
    except (PtqError, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"ptq: {printable(' '.join(message.split()))}", err=True)
        sys.exit(USER_ERROR)
    except click.Abort:
        click.echo("ptq: interrupted", err=True)
        sys.exit(130)
    except MemoryError as error:
        click.echo(
            f"ptq: not enough memory ({one_line(error)}): give fewer or smaller samples, or a smaller model", err=True
        )
        sys.exit(USER_ERROR)
    except OSError as error:
        click.echo(f"ptq: {printable(error.filename or 'file')}: {error.strerror or one_line(error)}", err=True)
        sys.exit(USER_ERROR)
    sys.exit(code if isinstance(code, int) else 0)


def _loaded(plugin: str) -> Any:
    if plugin.endswith(".py"):
        return load_module(plugin)
    try:
        return importlib.import_module(plugin)
    except Exception as error:
        raise BadData(f"--plugin {plugin}: cannot be imported ({type(error).__name__}: {one_line(error)})") from error


def _hook(module: Any, name: str) -> Iterable[Any]:
    """What a hook returns; it may ask for the arguments pytest would give it, which are None here."""
    hook: Callable[..., Any] | None = getattr(module, name, None)
    if hook is None:
        return ()
    try:
        return tuple(hook(**dict.fromkeys(signature(hook).parameters)))
    except Exception as error:
        raise BadData(f"--plugin {module.__name__}: {name}: {type(error).__name__}: {one_line(error)}") from error
