"""Stamps: what was read of files, kept from run to run: a file is read again when its stamp is another.

A stamp is inode, size, and the times of the last change of the content and of the inode, which no program sets. It is
what git trusts, too, and as there a file that was just written is read each time: its next change may have the same
stamp. What is found in a file is kept by the digest of its bytes, so a copy elsewhere needs no second reading.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

from ptq.files import cache_folder, file_digest

T = TypeVar("T")
Stamp = tuple[int, int, int, int]

_FRESH = 2_000_000_000  # ns; file systems keep times to 2 s or finer
_FORMAT = "stamps 1"


class Stamps:
    """The memory of one cache folder; written when the process ends, if there is more to remember."""

    def __init__(self, folder: Path) -> None:
        key = hashlib.sha256(_FORMAT.encode()).hexdigest()
        self._path = folder / "source" / key[:2] / f"{key}.json"
        self._files, self._found = _load(self._path)
        self._new: list[bool] = []
        weakref.finalize(self, _save, self._path, self._files, self._found, self._new)

    def digest(self, path: Path) -> str:
        """sha256 of a file's bytes, in hex."""
        name, before = os.path.abspath(path), _stamp(path.stat())  # noqa: PTH100 - the name alone: no link is followed
        known = self._files.get(name)
        if known is not None and known[0] == before:
            return known[1]
        digest = file_digest(path)
        if time.time_ns() - max(before[2:]) > _FRESH and _stamp(path.stat()) == before:
            self._files[name] = before, digest
            self._new.append(True)
        return digest

    def answer(self, kind: str, path: Path, read: Callable[[Path], Any]) -> Any:
        """What `read` says of a file: JSON, from its bytes alone."""
        digest = self.digest(path)
        found = self._found.setdefault(kind, {})
        if digest not in found:
            answer = read(path)
            if self.digest(path) != digest:  # written meanwhile
                return answer
            found[digest] = answer
            self._new.append(True)
        return found[digest]


def known_digest(path: Path) -> str:
    """`file_digest`, of a file that many steps or many runs depend on."""
    return stamps(cache_folder()).digest(path)


def remembered(kind: str) -> Callable[[Callable[[Path], T]], Callable[[Path], T]]:
    """`read`, whose answer is kept by the bytes of the file. It is JSON, lists for tuples; `kind` says how it is read:
    another name where other code finds something else.
    """

    def decorate(read: Callable[[Path], T]) -> Callable[[Path], T]:
        @wraps(read)
        def known(path: Path) -> T:
            if not path.is_file():  # `read` knows what to say
                return read(path)
            answer: T = stamps(cache_folder()).answer(kind, path, read)
            return answer

        return known

    return decorate


@lru_cache(maxsize=4)
def stamps(folder: Path) -> Stamps:
    """This process's memory of a cache folder."""
    return Stamps(folder)


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


_Files = dict[str, tuple[Stamp, str]]
_Found = dict[str, dict[str, Any]]


def _load(path: Path) -> tuple[_Files, _Found]:
    """What was kept; nothing when it is damaged."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # a pipe would wait for somebody to write to it
            return {}, {}
        content = json.loads(path.read_bytes())
        if content["seal"] != _seal(content["files"], content["found"]):
            return {}, {}
        return {name: (tuple(stamp), digest) for name, (stamp, digest) in content["files"].items()}, content["found"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}, {}


def _save(path: Path, files: _Files, found: _Found, new: list[bool]) -> None:
    """Add what this process read to what others wrote; what is of files that are gone goes."""
    if not new:
        return
    others, elsewhere = _load(path)
    kept = {name: known for name, known in {**others, **files}.items() if os.path.exists(name)}  # noqa: PTH110
    digests = {digest for _stamp, digest in kept.values()}
    merged = {
        kind: {
            digest: answer
            for digest, answer in {**elsewhere.get(kind, {}), **found.get(kind, {})}.items()
            if digest in digests
        }
        for kind in sorted({*elsewhere, *found})
    }
    known = dict(sorted(kept.items()))
    with suppress(OSError):  # a folder that cannot be written remembers nothing
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # what lies there may be a link or a pipe, which writing would go through
        # half of it is no memory, so no temporary name is needed, which a killed process would leave
        path.write_text(json.dumps({"files": known, "found": merged, "seal": _seal(known, merged)}), encoding="utf-8")


def _seal(files: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What tells a damaged memory."""
    return hashlib.sha256(json.dumps([files, found]).encode()).hexdigest()
