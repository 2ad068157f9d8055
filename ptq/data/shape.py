"""Shape: whether a value read from JSON is what a type hint says."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from ptq.errors import BadData

MOST = 1e100
"""Largest number: what is computed from two such is still a number."""
_PLAIN = frozenset({bool, int, float, str, list, dict})


def check(value: object, hint: Any, name: str) -> None:
    """Raise `BadData` where a value does not fit its hint: ``results[3].n='x', but should be int``.

    Hints are ``Any``, ``None, str, bool, int, float``, a `TypedDict` (other keys are ignored), unions of these, and
    ``Mapping``, ``dict``, ``list`` and ``tuple`` of them. A float may be written as an int; a tuple is a list.
    """
    if hint is Any or (hint in _PLAIN and _is(value, hint)):  # most there is: COCO has a million annotations
        return
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if not any(_fits(value, part, name) for part in args):
            raise _misfit(value, hint, name)
    elif is_typeddict(hint):
        check_fields(value, get_type_hints(hint), name)
    elif origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise _misfit(value, dict, name)
        for key, part in value.items():
            check(key, str, name)
            check(part, args[1], f"{name}[{key!r}]")
    elif origin in (list, tuple):
        if not isinstance(value, list | tuple) or (origin is tuple and len(value) != len(args)):
            raise _misfit(value, hint, name)
        for index, part in enumerate(value):
            check(part, args[index] if origin is tuple else args[0], f"{name}[{index}]")
    elif not _is(value, hint):
        raise _misfit(value, hint, name)


def check_fields(value: object, hints: Mapping[str, Any], name: str) -> None:
    """`check` of an object whose keys are known."""
    if not isinstance(value, dict):
        raise _misfit(value, dict, name)
    for key, hint in hints.items():
        if key not in value:
            raise BadData(f"{name} has no {key!r}, but should")
        check(value[key], hint, f"{name}.{key}")


def _fits(value: object, hint: Any, name: str) -> bool:
    try:
        check(value, hint, name)
    except BadData:
        return False
    return True


def _is(value: object, hint: type) -> bool:
    if isinstance(value, bool) or hint not in (int, float, str):
        return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if isinstance(value, str):
        return hint is str and not any("\ud800" <= char <= "\udfff" for char in value)  # lone ones cannot be written
    return isinstance(value, (int, float) if hint is float else hint) and -MOST <= value <= MOST  # type: ignore[operator]


def _misfit(value: object, hint: Any, name: str) -> BadData:
    return BadData(f"{name}={value!r:.60}, but should be {getattr(hint, '__name__', hint)}")
