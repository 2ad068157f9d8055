"""What the conformance tests share: the registry of this run, hooks included, and one workshop."""

from __future__ import annotations

import pytest

from ptq.conformance.workshop import Workshop, typical
from ptq.engine.registry import Registry
from ptq.plugin.judging import registry_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = set(metafunc.fixturenames)
    registry = registry_of(metafunc.config)
    backends = registry.backends
    if "claim" in wanted:  # a backend's quantized case
        cases = [case for backend in backends.values() for case in typical(backend, registry)]
        metafunc.parametrize("claim", [pytest.param(case, id=case.id) for case in cases])
    elif "float_claim" in wanted:
        cases = [case for case in registry.grid("small") if case.is_float]
        metafunc.parametrize("float_claim", [pytest.param(case, id=case.id) for case in cases])
    elif "backend" in wanted:
        metafunc.parametrize("backend", [pytest.param(each, id=name) for name, each in backends.items()])


@pytest.fixture(scope="session")
def registry(request: pytest.FixtureRequest) -> Registry:
    return registry_of(request.config)


@pytest.fixture(scope="session")
def workshop(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"), registry)
