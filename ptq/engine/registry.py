"""Registry: every backend, method, metric and workload there is: ptq's own files, entry points, and what hooks bring.

Joining takes a file in a package of ptq, or an entry point of a package that is installed, or a hook in conftest.py;
no list is edited.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ptq.backends.protocol import Backend
from ptq.cases import FP32, Case
from ptq.errors import PtqError, one_line
from ptq.metrics.metric import Metric
from ptq.quantization.method import Method

Declare = Callable[[Path | None], Any]
"""Declares a workload for the folder of data, None when there is none. Reads nothing."""

GROUPS = {
    "ptq.backends": ("ptq.backends", "BACKENDS"),
    "ptq.methods": ("ptq.quantization.methods", "METHOD"),
    "ptq.metrics": ("ptq.metrics", "METRIC"),
    "ptq.workloads": ("ptq.workloads", "WORKLOAD"),
}
"""By group of entry points: the package whose files join by being there, and the attribute each has.

An entry point names the same kind of object: a backend or several, a `Method`, a class of `Metric`, a `Declare`."""


@dataclass(frozen=True)
class Registry:
    """What there is, by name. `backends` and `methods` are what hooks bring beside files and entry points."""

    extra_backends: tuple[Backend, ...] = ()
    extra_methods: tuple[Method, ...] = ()

    @cached_property
    def backends(self) -> Mapping[str, Backend]:
        """Every backend; those of ptq first."""
        return _by_name("backend", [*_joined("ptq.backends"), *self.extra_backends], "quantize")

    @cached_property
    def methods(self) -> Mapping[str, Method]:
        """Every method; those of ptq first."""
        return _by_name("method", [*_joined("ptq.methods"), *self.extra_methods], "choose")

    @cached_property
    def metrics(self) -> Mapping[str, type[Metric]]:
        """Every class of metric."""
        return _by_name("metric", _joined("ptq.metrics"), "score")

    @cached_property
    def workloads(self) -> Mapping[str, Declare]:
        """What declares a workload, by the name of its file or entry point."""
        return MappingProxyType(dict(_named("ptq.workloads")))

    def versions(self, name: str) -> Mapping[str, str]:
        """`Backend.versions`, asked once: finding a distribution costs milliseconds, and every key has them."""
        if name not in self._versions:
            self._versions[name] = dict(self.backends[name].versions())
        return self._versions[name]

    @cached_property
    def _versions(self) -> dict[str, Mapping[str, str]]:
        return {}

    def backend(self, case: Case) -> Backend:
        """The case's backend; `PtqError` names those there are."""
        if case.backend not in self.backends:
            known = ", ".join(self.backends)
            raise PtqError(f"{case}: backend {case.backend!r} is not known: it should be one of {known}")
        return self.backends[case.backend]

    def method(self, name: str) -> Method:
        """The method called `name`; `PtqError` names those there are."""
        if name not in self.methods:
            raise PtqError(f"method {name!r} is not known: it should be one of {', '.join(self.methods)}")
        return self.methods[name]

    def grid(self, workload: str) -> list[Case]:
        """Every case the backends list for a workload, the impossible ones too."""
        return [case for backend in self.backends.values() for case in backend.cases(workload, self.methods)]

    def float_case(self, case: Case) -> Case:
        """The float case of a case's runtime: its backend's own, else `reference_case`."""
        own = [other for other in self.backend(case).cases(case.workload, self.methods) if other.is_float]
        return own[0] if own else reference_case(case.workload)


def reference_case(workload: str) -> Case:
    """The float case every case of a workload is compared with, whatever its backend: one reference for all."""
    return Case(workload, "onnxruntime", FP32)


def modules(package: str, attribute: str) -> dict[str, object]:
    """`attribute` of every module in `package` that has it, by module name, sorted.

    Raises `PtqError` that names a file which cannot be imported: left out, its cases would vanish unseen.
    """
    parent = importlib.import_module(package)
    found: dict[str, object] = {}
    for name in sorted(info.name for info in pkgutil.iter_modules(parent.__path__)):
        module = _imported(f"{package}.{name}", partial(importlib.import_module, f"{package}.{name}"))
        if hasattr(module, attribute):
            found[name] = getattr(module, attribute)
    return found


def _named(group: str) -> Iterable[tuple[str, Any]]:
    package, attribute = GROUPS[group]
    yield from modules(package, attribute).items()
    yield from _points(group)


def _points(group: str) -> Iterable[tuple[str, Any]]:
    """What installed packages bring, by name."""
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        yield point.name, _imported(f"entry point {point.value} of {group}", point.load)


def _joined(group: str) -> list[Any]:
    found: list[Any] = []
    for _, value in _named(group):
        found.extend(value if isinstance(value, tuple | list) else [value])
    return found


def _by_name(kind: str, found: Iterable[Any], method: str) -> Mapping[str, Any]:
    known: dict[str, Any] = {}
    for value in found:
        name = getattr(value, "name", None)
        if not isinstance(name, str) or not hasattr(value, method):
            raise PtqError(f"{kind} {value!r:.80}: should have a name and a {method}(): see the README")
        if name in known and known[name] is not value:
            raise PtqError(f"{kind} {name!r} is there twice ({type(known[name]).__module__}, {type(value).__module__})")
        known[name] = value
    return MappingProxyType(known)


def _imported(what: str, load: Callable[[], object]) -> object:
    try:
        return load()
    except Exception as error:
        said = one_line(error)
        raise PtqError(f"{what}: cannot be imported ({type(error).__name__}: {said}); mend or remove it") from error


def declared_outside(data: Path | None) -> list[Any]:
    """The workloads that installed packages bring, by name."""
    return [declare(data) for _, declare in _points("ptq.workloads")]


def builtin_workloads(data: Path | None) -> list[Any]:
    """The workloads of ptq and of installed packages; those whose data is not in `data` are reported as not run."""
    return declared(Registry(), data)


def declared(registry: Registry, data: Path | None) -> list[Any]:
    """Every workload of the registry's, by name; those whose data is not in `data` are reported as not run."""
    return [declare(data) for declare in registry.workloads.values()]
