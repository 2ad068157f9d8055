"""What several commands ask for in the same words: a model, inputs, and how images become inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ptq.api.text import printable
from ptq.data.cifar10 import read
from ptq.data.inputs import called, is_object
from ptq.data.pictures import LAYOUTS, ORDERS, RANGES, ImageOptions
from ptq.data.sampling import PER_CLASS, SEED, calibration_samples
from ptq.engine.registry import Registry
from ptq.engine.store import Store

MODEL = click.Path(exists=True, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
INPUTS = ".npy, .npz, a folder of .npz or of images, file.py:function, or CIFAR-10's folder"

with_registry = click.make_pass_decorator(Registry, ensure=True)


def notify(line: str) -> None:
    """Show a line of progress on stderr."""
    click.echo(f"ptq: {printable(line)} ...", err=True)


def store() -> Store:
    """The store, with a line on stderr for what takes long."""
    return Store(notify=notify)


def judging(metric: str | None, run: Callable[[], Any]) -> Any:
    """What `run` gives; what the code of a metric ``file.py:name`` raises in it is one line."""
    own = metric is not None and is_object(metric)
    return called(run, Path(str(metric).rpartition(":")[0]), f"metric {metric}") if own else run()


def inputs(*names: str, required: bool = True, text: str = "") -> Callable[[Any], Any]:
    """The option that names inputs, and those that say how images become inputs: ``inputs`` and ``images``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def called(*arguments: Any, **options: Any) -> Any:
            given = {name: options.pop(name) for name in ("crop", "size", "layout", "mean", "std", "range", "order")}
            said = {name: value for name, value in given.items() if value is not None}
            return command(*arguments, images=ImageOptions(**said) if said else None, **options)

        for option in reversed((
            click.option(*names, "inputs", required=required, metavar="X", help=f"{text}{INPUTS}."),
            click.option("--crop", type=float, metavar="SHARE", help="Images: cut out this central square."),
            click.option("--size", callback=_size, metavar="HxW", help="Images: resize to this, in pixels."),
            click.option("--layout", type=click.Choice(LAYOUTS), help="Images: by default as the model's input shows."),
            click.option("--mean", callback=_numbers, metavar="A[,B,C]", help="Images: taken off, a channel."),
            click.option("--std", callback=_numbers, metavar="A[,B,C]", help="Images: divided by, a channel."),
            click.option("--range", type=click.Choice(RANGES), help="Images: what 0..255 becomes; by default 0..1."),
            click.option("--order", type=click.Choice(ORDERS), help="Images: of the channels; by default RGB."),
        )):  # fmt: skip
            called = option(called)
        return called

    return decorate


def drawn(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--samples-per-class`` and ``--seed``, for CIFAR-10 alone: ``inputs`` are then the samples drawn."""

    @functools.wraps(command)
    def called(*arguments: Any, inputs: Any, samples_per_class: int | None, seed: int | None, **options: Any) -> Any:
        if samples_per_class is not None or seed is not None:
            if inputs is None:
                raise click.UsageError("--samples-per-class and --seed draw from --calibration: name CIFAR-10's folder")
            count = PER_CLASS if samples_per_class is None else samples_per_class
            inputs = calibration_samples(read(Path(inputs), "train"), count, SEED if seed is None else seed)
        return command(*arguments, inputs=inputs, **options)

    for option in (
        click.option("--seed", type=click.IntRange(min=0), help=f"CIFAR-10: of the draw; by default {SEED}."),
        click.option(
            "--samples-per-class", type=click.IntRange(min=1), help=f"CIFAR-10: images; by default {PER_CLASS}."
        ),
    ):
        called = option(called)
    return called


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = value.lower().split("x")
    if not all(side.isascii() and side.isdigit() for side in sides) or len(sides) > 2:
        raise click.BadParameter(f"--size {value}: should be HEIGHTxWIDTH in pixels, e.g. 224x224")
    return int(sides[0]), int(sides[-1])


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"--{parameter.name} {value}: should be numbers, e.g. 0.485,0.456,0.406") from None
