"""The verdicts of a run do not depend on the order of its tests; `test_runs` has the bytes, and workers."""

from __future__ import annotations

import json

import pytest
from foreign import BARS, CONFTEST, run, write_model

SHUFFLE = """
import os
import random

def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.nodeid)
    random.Random(os.environ["ORDER"]).shuffle(items)
"""


def results(repository: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, seed: int, *arguments: str) -> str:
    """Everything a run in the order of `seed` says of its cases but the times."""
    monkeypatch.setenv("ORDER", str(seed))
    assert run(repository, "-m", "accuracy", "--ptq-json", "out.json", *arguments).ret == 1
    rows = json.loads((repository.path / "out.json").read_text())["results"]
    for each in rows:
        del each["seconds"]
    return json.dumps(rows)


@pytest.fixture
def shuffled(repository: pytest.Pytester) -> pytest.Pytester:
    """The foreign repository with every verdict in it, its tests in an order the environment decides."""
    (repository.path / "conftest.py").write_text(CONFTEST + SHUFFLE)
    more = '["mine-*-uint8-*"]\nmax_drop = 1.0\nwhy = "unresolved"\n["mine-*-int8-*"]\nfloor = 0.99\nwhy = "under it"\n'
    (repository.path / "bars.toml").write_text(BARS + more)
    write_model(repository.path / "model.onnx", favour=24)
    return repository


def test_another_order_gives_the_same_results(shuffled: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    first = results(shuffled, monkeypatch, 0)
    assert {each["verdict"] for each in json.loads(first)} == {"pass", "unresolved", "fail"}
    assert results(shuffled, monkeypatch, 1, "--ptq-no-cache") == first
