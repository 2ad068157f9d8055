"""Discovery: a file is enough to join, and one that is broken is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptq.engine.registry import modules
from ptq.errors import PtqError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / f"package_{tmp_path.name}"  # a name of its own: Python imports a name once
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "one.py").write_text("THING = 1")
    (folder / "other.py").write_text("NOTHING = 1")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_file_joins_by_its_name(package: Path) -> None:
    assert modules(package.name, "THING") == {"one": 1}


@pytest.mark.parametrize("content", ["import no_such_library", "def broken(", "1 / 0"])
def test_a_file_that_cannot_be_imported_is_named(package: Path, content: str) -> None:
    (package / "broken.py").write_text(content)
    with pytest.raises(PtqError, match=rf"^{package.name}.broken: cannot be imported \(.*\); mend or remove it$"):
        modules(package.name, "THING")
