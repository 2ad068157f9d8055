"""Durations: how long each test took in earlier runs, kept beside the store, so that a run can say how long is left."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from ptq.data.content import read_json
from ptq.data.shape import check
from ptq.errors import BadData
from ptq.files import write_text

MOST = 20_000
"""Tests that are remembered: those of the latest runs."""


class Durations:
    """Seconds by test id, in ``durations.json`` of a store's folder.

    What is kept is the longest a test took: one that finds all it needs in the store takes no time. A file that is
    absent or damaged is as one without entries: it is no result, only what a clock is guessed by.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / "durations.json"

    def load(self) -> dict[str, float]:
        """Seconds of earlier runs."""
        try:
            found = read_json(self._path)
            check(found, dict[str, float], "durations")
        except (OSError, ValueError, BadData, RecursionError):
            return {}
        return {name: float(seconds) for name, seconds in found.items()}

    def add(self, seconds: Mapping[str, float]) -> None:
        """Remember those of a run; nothing where there is no store."""
        if not seconds or not self._path.parent.is_dir():
            return
        before = self.load()
        longest = {name: round(max(took, before.get(name, 0.0)), 3) for name, took in seconds.items()}
        kept = {**{name: took for name, took in before.items() if name not in longest}, **longest}
        with contextlib.suppress(OSError):  # a store that cannot be written says so itself
            write_text(self._path, json.dumps(dict(list(kept.items())[-MOST:])))

    def clear(self) -> None:
        """Forget all."""
        self._path.unlink(missing_ok=True)
