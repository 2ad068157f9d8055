"""Timetable: what cases took, remembered in the remote store, and the plan that all shards of a run agree on by it.

``seconds/<digest>`` holds what one set of cases took last; ``plan/<key>``, what a run is cut by, is written by whoever
comes first, and never changed. Both are hints: what they say can make a run slower, not wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping

from ptq.data.shape import check
from ptq.engine.remote import Remote
from ptq.errors import PtqError

Seconds = Mapping[str, tuple[float, float]]
"""By case id, what calibrating for it took, which others share, and what all else of it took."""


def remember(remote: Remote, seconds: Seconds) -> None:
    """Keep what cases took."""
    if seconds:
        remote.write_note(f"seconds/{_digest(sorted(seconds))}", seconds)


def agreed(remote: Remote, commit: str | None, cases: Collection[str], of: int) -> Seconds:
    """What the run of a commit over `cases`, cut in `of` parts, is planned by: the same for all that ask.

    Empty where the remote has nothing and takes nothing.
    """
    name = f"plan/{_digest([commit, sorted(cases), of])}"
    if (known := _seconds(remote.read_note(name))) is None:
        found: dict[str, tuple[float, float]] = {}
        for each in remote.notes("seconds"):
            found.update(_seconds(remote.read_note(each)) or {})
        remote.write_note(name, {each: found[each] for each in sorted(cases) if each in found}, once=True)
        known = _seconds(remote.read_note(name))  # perhaps another's
    return known or {}


def _seconds(content: object) -> Seconds | None:
    try:
        check(content, dict[str, tuple[float, float]], "seconds")
    except (PtqError, ValueError):
        return None
    assert isinstance(content, dict)
    found = {name: (float(first), float(rest)) for name, (first, rest) in content.items()}
    sound = all(math.isfinite(each) and each >= 0 for pair in found.values() for each in pair)
    return found if sound else None


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
