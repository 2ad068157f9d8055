"""Fingerprints: code and settings that make a result are in them, and nothing else is."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptq.engine.fingerprint import code_digest, describe, fingerprint
from ptq.metrics.top1 import Top1

Write = Callable[[str, str], ModuleType]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module of a user's and imports it anew."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names: set[str] = set()

    def written(name: str, text: str) -> ModuleType:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        names.add(name)
        for known in names:
            sys.modules.pop(known, None)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield written
    for name in names:
        sys.modules.pop(name, None)


def test_a_constant_in_the_file_of_a_function_changes_it(write: Write) -> None:
    one = fingerprint(write("outside_a", "LIMIT = 1\ndef choose(x): return LIMIT\n").choose)
    two = fingerprint(write("outside_a", "LIMIT = 22\ndef choose(x): return LIMIT\n").choose)
    assert one != two


def test_comments_docstrings_and_layout_change_nothing(write: Write) -> None:
    one = fingerprint(write("outside_b", 'def choose(x):\n    """One."""\n    return 1\n').choose)
    two = fingerprint(write("outside_b", '"""Two."""\n# three\ndef choose( x ):\n\n    return 1\n').choose)
    assert one == two


def test_a_file_of_the_users_own_that_it_imports_counts(write: Write) -> None:
    write("outside_inner", "SCALE = 1\n")
    one = fingerprint(write("outside_c", "from outside_inner import SCALE\ndef f(): return SCALE\n").f)
    write("outside_inner", "SCALE = 22\n")
    two = fingerprint(write("outside_c", "from outside_inner import SCALE\ndef f(): return SCALE  # again\n").f)
    assert one != two


def test_what_is_imported_for_type_checkers_alone_does_not_count(write: Write) -> None:
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from outside_types import Kind\ndef f(): return 1\n"
    )
    write("outside_types", "Kind = int\n")
    one = fingerprint(write("outside_e", text).f)
    write("outside_types", "Kind = float\n")
    assert fingerprint(write("outside_e", text + "# again\n").f) == one


def test_a_class_counts_with_what_it_derives_from(write: Write) -> None:
    module = write("outside_d", "import ptq\nclass Mine(ptq.Top1):\n    pass\n")
    assert code_digest(module.Mine()) != code_digest(Top1())
    changed = write("outside_d", "import ptq\nclass Mine(ptq.Top1):\n    name = 'other'\n")
    assert code_digest(module.Mine) != code_digest(Top1) != code_digest(changed.Mine)


def test_what_a_function_closes_over_counts() -> None:
    def make(order: int) -> Callable[[], int]:
        return lambda: order

    assert fingerprint(make(1)) == fingerprint(make(1)) != fingerprint(make(2))
    assert fingerprint(partial(make, 1)) != fingerprint(partial(make, 2))


def test_code_without_a_file_counts_by_itself() -> None:
    spaces: list[dict[str, Any]] = [{}, {}, {}]
    for space, text in zip(spaces, ("lambda: 1", "lambda: 1", "lambda: 2"), strict=True):
        space["f"] = eval(text)  # noqa: S307 - what a notebook does
    one, same, other = (fingerprint(space["f"]) for space in spaces)
    assert one == same != other


def test_settings_of_a_dataclass_count_and_a_file_counts_by_its_bytes(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Settings:
        seed: int
        table: Path

    path = tmp_path / "table.txt"
    path.write_text("one")
    first = fingerprint(Settings(0, path))
    assert first == fingerprint(Settings(0, path)) != fingerprint(Settings(1, path))
    path.write_text("two")
    assert fingerprint(Settings(0, path)) != first


def test_files_of_installed_libraries_do_not_count() -> None:
    assert code_digest(np.mean) == code_digest()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_equal_values_are_described_alike_and_as_json(value: object) -> None:
    assert json.dumps(describe(value)) == json.dumps(describe(value))


@given(st.lists(st.floats(width=32), min_size=1), st.lists(st.floats(width=32), min_size=1))
def test_arrays_are_known_by_their_bytes(one: list[float], two: list[float]) -> None:
    a, b = np.array(one, np.float32), np.array(two, np.float32)
    assert (describe(a) == describe(b)) == (a.tobytes() == b.tobytes())
