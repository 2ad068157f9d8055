"""What the tests of ptq share: stores of their own, and a foreign repository to judge."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from foreign import write_repository
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") or os.environ.get("TOX_ENV_NAME") else "dev")


@pytest.fixture
def store_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PTQ_CACHE; PTQ_DATA is not set."""
    root = tmp_path / "cache"
    monkeypatch.setenv("PTQ_CACHE", str(root))
    monkeypatch.delenv("PTQ_DATA", raising=False)
    monkeypatch.delenv("PTQ_STORE", raising=False)
    return root


@pytest.fixture(scope="session")
def shared_store_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the runs of the foreign repository that do not test the cache itself: artifacts are addressed by
    their content, so a run finds only what it would have made.
    """
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def imported_once() -> None:
    """A run of pytest in this process forgets what it imported; torch and scipy cannot be imported twice."""
    import onnxruntime.tools.symbolic_shape_infer  # noqa: F401 - imports torch where there is one
    import scipy.optimize
    import scipy.stats  # noqa: F401


@pytest.fixture(autouse=True)
def _imported_before_any_inner_run(request: pytest.FixtureRequest) -> None:
    """Whatever the order of the tests: the first run inside this process must find torch and scipy imported."""
    if "pytester" in request.fixturenames:
        request.getfixturevalue("imported_once")


@pytest.fixture
def repository(
    imported_once: None, pytester: pytest.Pytester, shared_store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """A foreign repository of one tiny model, in pytester's folder; neither PTQ_DATA nor GITHUB_STEP_SUMMARY is set."""
    monkeypatch.setenv("PTQ_CACHE", str(shared_store_root))
    monkeypatch.delenv("PTQ_DATA", raising=False)
    monkeypatch.delenv("PTQ_STORE", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    # a run started from one of xdist's workers is none itself; pytest-benchmark keeps nothing in a worker
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    write_repository(pytester.path)
    return pytester
