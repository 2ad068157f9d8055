"""Discovery: a backend, method or workload is a file in its package, found by name, never listed by hand."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def modules(package: str, attribute: str) -> dict[str, object]:
    """`attribute` of every module in `package` that has it, by module name, sorted.

    A file is enough to join: ``ptq/methods/minmax.py`` with a ``METHOD`` becomes ``minmax``.
    """
    parent: ModuleType = importlib.import_module(package)
    found: dict[str, object] = {}
    for info in sorted(pkgutil.iter_modules(parent.__path__), key=lambda each: each.name):
        module = importlib.import_module(f"{package}.{info.name}")
        if hasattr(module, attribute):
            found[info.name] = getattr(module, attribute)
    return found
