"""Discovery: a backend, method or workload is a file in its package, found by name, never listed by hand."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from ptq.errors import PtqError


def modules(package: str, attribute: str) -> dict[str, object]:
    """`attribute` of every module in `package` that has it, by module name, sorted.

    A file is enough to join: ``ptq/methods/minmax.py`` with a ``METHOD`` becomes ``minmax``. Raises `PtqError` that
    names a file which cannot be imported: left out, its cases would vanish unseen.
    """
    parent: ModuleType = importlib.import_module(package)
    found: dict[str, object] = {}
    for info in sorted(pkgutil.iter_modules(parent.__path__), key=lambda each: each.name):
        try:
            module = importlib.import_module(f"{package}.{info.name}")
        except Exception as error:
            reason = " ".join(str(error).split())
            raise PtqError(
                f"{package}.{info.name}: cannot be imported ({type(error).__name__}: {reason}); mend or remove it"
            ) from error
        if hasattr(module, attribute):
            found[info.name] = getattr(module, attribute)
    return found
