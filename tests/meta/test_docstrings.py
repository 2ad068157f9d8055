"""What a stranger reads first: every public name says what it is, every command has an example."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import ptq
from ptq.cli import commands


def told(name: str) -> str:
    """The docstring of a public name; of an alias or a constant, the string that follows it in its module."""
    value = getattr(ptq, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__doc__ or ""
    module = next(
        module
        for module in list(sys.modules.values())
        if module.__name__.startswith("ptq.") and _assigned(module, name) is not None
    )
    return _assigned(module, name) or ""


def _assigned(module: types.ModuleType, name: str) -> str | None:
    if name not in vars(module) or not (module.__file__ or "").endswith(".py"):
        return None
    body = ast.parse(inspect.getsource(module)).body
    for statement, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        if any(isinstance(each, ast.Name) and each.id == name for each in targets):
            text = after.value if isinstance(after, ast.Expr) else None
            return str(text.value) if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
    return None


def members(value: Any) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class defines itself."""
    for name, member in vars(value).items():
        if name.startswith("_"):
            continue
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if inspect.isfunction(function):
            yield name, function


def parameters(value: Any) -> set[str]:
    """What a caller gives: the parameters of a function, the fields of a dataclass."""
    if dataclasses.is_dataclass(value):
        return {field.name for field in dataclasses.fields(value) if field.init}
    return set(inspect.signature(value).parameters) if inspect.isfunction(value) else set()


def missing(name: str, doc: str) -> list[str]:
    """What the docstring of a public name lacks."""
    value = getattr(ptq, name)
    lacks = [] if re.search(r"\w{2,}.*[.:]", doc, re.DOTALL) else ["a sentence"]
    lacks += [each for each in sorted(parameters(value)) if not re.search(rf"\b{each.lower()}s?\b", doc.lower())]
    if inspect.isclass(value):
        lacks += [f"docstring of {each}" for each, function in members(value) if not function.__doc__]
    return lacks


@pytest.mark.parametrize("name", sorted(ptq.__all__))
def test_every_public_name_says_what_it_is_and_names_what_it_takes(name: str) -> None:
    assert missing(name, told(name)) == []


def test_a_docstring_that_lacks_a_parameter_is_found() -> None:
    assert missing("quantize", "Quantize a float model.") != []
    assert missing("Case", "") == ["a sentence", "backend", "dtype", "exclude", "granularity", "method", "workload"]


def every(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and subcommand, by its words."""
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from every(inner, (*path, name))


COMMANDS = dict(every(commands()))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_has_an_example_that_it_takes(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    context = click.Context(command, info_name=" ".join(("ptq", *path)))
    said = re.search(r"Example: (ptq [^\n]+(?:\n  \S[^\n]*)*)", command.get_help(context))
    assert said, f"ptq {' '.join(path)} --help has no example"
    words = shlex.split(" ".join(said[1].split()))[1:]
    found: click.Command = commands()
    while isinstance(found, click.Group) and words and words[0] in found.commands:
        found = found.commands[words.pop(0)]
    known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known
    assert path == () or found is COMMANDS[path] or isinstance(COMMANDS[path], click.Group)
    needed = [each for each in found.params if isinstance(each, click.Argument) and each.required]
    assert len([word for word in words if not word.startswith("-")]) >= len(needed)


def test_every_module_says_what_it_holds() -> None:
    files = sorted(Path(ptq.__file__).parent.rglob("*.py"))
    assert len(files) > 100
    assert [str(path) for path in files if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []
