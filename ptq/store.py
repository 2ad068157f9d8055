"""Store: content-addressed artifacts on disk, made once, whoever asks first."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from ptq.errors import PtqError

Key = Mapping[str, Any]
_KINDS = ("model", "statistics", "artifact", "census", "predictions", "score")


@dataclass(frozen=True)
class Entry:
    """A stored file: where it is, what making it took in seconds, what its maker noted, and who made it.

    `made` is True when this very call made it, False when it was found.
    """

    path: Path
    seconds: float
    notes: Mapping[str, str]
    made: bool


class Store:
    """Files addressed by the sha256 of what they were made from.

    A file appears under its name only when it is whole (written to a temporary name, then replaced), and a lock
    per key makes concurrent processes build it once. `root` defaults to ``PTQ_CACHE``, else the platform's cache
    folder.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else default_root()

    def get(self, kind: str, key: Key, suffix: str, make: Callable[[Path], Mapping[str, str] | None]) -> Entry:
        """The file of `key`, made by ``make(path)`` if it is not there yet; `make` may return notes to keep.

        The key must be JSON. This package's own source is part of it, so that a changed method never meets a
        stale artifact.
        """
        if kind not in _KINDS:
            raise PtqError(f"store: kind {kind!r} should be one of {', '.join(_KINDS)}")
        address = _address({**key, "kind": kind, "source": source_digest()})
        path = self.root / kind / address[:2] / (address + suffix)
        if (found := _entry(path)) is not None:
            return found
        lock = self.root / "locks" / f"{address}.lock"
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PtqError(
                f"store {self.root}: cannot be written ({error.strerror}); set PTQ_CACHE to a folder that can"
            ) from error
        with FileLock(lock):
            if (found := _entry(path)) is not None:
                return found
            prefix = f".making-{address}-"
            for left in path.parent.glob(f"{prefix}*"):  # by a killed process: whoever holds the lock is alone
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
                temporary = Path(folder) / path.name
                start = time.perf_counter()
                notes = dict(make(temporary) or {})
                seconds = time.perf_counter() - start
                made = _sidecar(temporary)
                made.write_text(json.dumps({"seconds": seconds, "notes": notes}))
                made.replace(_sidecar(path))
                temporary.replace(path)
            return Entry(path, seconds, notes, made=True)

    def usage(self) -> Iterator[tuple[str, int, int]]:
        """(kind, files, bytes) for every kind there is something of."""
        for kind in _KINDS:
            files = [each for each in (self.root / kind).rglob("*") if each.is_file() and ".making-" not in str(each)]
            kept = [each for each in files if each.suffix != ".json" or not each.stem.endswith(".made")]
            if kept:
                yield kind, len(kept), sum(each.stat().st_size for each in files)

    def clear(self) -> None:
        """Remove everything the store made, and nothing else in its folder."""
        for kind in (*_KINDS, "locks"):
            shutil.rmtree(self.root / kind, ignore_errors=True)


def default_root() -> Path:
    """``PTQ_CACHE`` when set and not empty, else the platform's cache folder."""
    return Path(os.environ.get("PTQ_CACHE") or platformdirs.user_cache_path("ptq", appauthor=False))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it: temporary name in the same folder, then replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, content.encode())


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def source_digest() -> str:
    """sha256 over this package's own Python source."""
    folder = Path(__file__).parent
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        whole.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def _address(key: Key) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.stem}.made.json")


def _entry(path: Path) -> Entry | None:
    try:
        if not path.is_file():
            return None
        made = json.loads(_sidecar(path).read_text())
        return Entry(path, float(made["seconds"]), made["notes"], made=False)
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # absent, or damaged: it is made again
        return None
