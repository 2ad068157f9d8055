"""Store: what steps made, on disk, made once, whoever asks first, and verified whenever it is read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from ptq.engine.progress import Notify, announced, silent
from ptq.engine.step import Step
from ptq.errors import PtqError
from ptq.files import file_digest

KINDS = ("model", "samples", "statistics", "artifact", "census", "predictions", "score", "explanation")
_TAG = "CACHEDIR.TAG"
_OWN = re.compile(r"(\.making-)?[0-9a-f]{64}\b")
_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# What ptq keeps; `ptq cache clear` empties it.\n"


@dataclass(frozen=True)
class Entry:
    """A stored file: where it is, its sha256, what making it took, what its maker noted.

    `seconds` leaves out what the steps it asked for took; `inputs` are those, as (kind, seconds). `made` is True when
    this very call made it, False when it was found.
    """

    path: Path
    digest: str
    seconds: float = 0.0
    notes: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[tuple[str, float], ...] = ()
    made: bool = False


class Store:
    """Files addressed by the key of the step that made them.

    A file appears under its name only when it is whole (written to a temporary name, then replaced), and a lock
    per key makes concurrent processes build it once. Every file has a digest beside it; one that does not match is made
    again, and a line says so. `root` defaults to ``PTQ_CACHE``, else the platform's cache folder. `counts` says what
    was ``made`` and ``found``, by kind.
    """

    def __init__(self, root: Path | None = None, notify: Notify = silent) -> None:
        self.root = root if root is not None else default_root()
        self.counts: Counter[tuple[str, str]] = Counter()
        self._notify = notify
        self._verified: dict[Path, tuple[int, int]] = {}
        self._asked: list[list[tuple[str, float]]] = []
        self._nested: list[float] = []
        self._presence: FileLock | None = None

    def get(self, step: Step) -> Entry:
        """The entry of a step, made if it is not there yet or is damaged. Raises what making it raises."""
        entry = self._found(step)
        if entry is None:
            entry = self._make(step)
        self.counts[step.kind, "made" if entry.made else "found"] += 1
        if self._asked:
            self._asked[-1].append((step.kind, entry.seconds))
        return entry

    def usage(self) -> Iterator[tuple[str, int, int]]:
        """(kind, files, bytes) for every kind there is something of."""
        for kind in KINDS:
            files = [path for path in (self.root / kind).rglob("*") if path.is_file() and ".making-" not in str(path)]
            kept = [path for path in files if not path.name.endswith(".made.json")]
            if kept:
                yield kind, len(kept), sum(path.stat().st_size for path in files)

    def clear(self) -> None:
        """Remove everything the store made, and nothing else in its folder.

        Raises `PtqError` for a folder that no store has marked as its own, and while another process uses it.
        """
        if not self.root.exists():
            return
        tag = self.root / _TAG
        if not tag.is_file() or tag.read_text(encoding="utf-8", errors="replace") != _SIGNATURE:
            raise PtqError(
                f"{self.root}: has no {_TAG} of ptq, so it may hold what is not ptq's; remove it by hand, or point "
                "PTQ_CACHE to a folder ptq made"
            )
        own = None if self._presence is None else Path(self._presence.lock_file)
        for path in sorted((self.root / "locks").glob("run-*.lock")):
            if path == own:
                continue
            try:
                with FileLock(path, timeout=0):
                    path.unlink(missing_ok=True)
            except Timeout:
                raise PtqError(
                    f"{self.root}: another run uses it ({path.stem}); clear it when that has ended"
                ) from None
        # by name, file by file: the folder may hold a user's own folder called `model`
        for path in [*(path for kind in KINDS for path in self.root.glob(f"{kind}/??/*")), *self.root.glob("locks/*")]:
            if _OWN.match(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for kind in KINDS:
            for path in [*(self.root / kind).glob("??"), self.root / kind]:
                with contextlib.suppress(OSError):  # not empty, or not there
                    path.rmdir()
        self._verified.clear()

    def _found(self, step: Step) -> Entry | None:
        path = self._path(step)
        try:
            stat = path.stat()
            entry = _entry(path, json.loads(_sidecar(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            self._notify(f"{step.title}: the note beside a kept file is damaged; made again")
            return None
        stamp = (stat.st_mtime_ns, stat.st_size)
        if self._verified.get(path) != stamp:
            self._attend()
            if file_digest(path) != entry.digest:
                self._notify(f"{step.title}: a kept file is damaged; made again")
                return None
            self._verified[path] = stamp
        return entry

    def _make(self, step: Step) -> Entry:
        path = self._path(step)
        lock = self.root / "locks" / f"{step.key}.lock"
        self._attend()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        with FileLock(lock):
            if (entry := self._found(step)) is not None:
                return entry
            prefix = f".making-{step.key}-"
            for left in path.parent.glob(f"{prefix}*"):  # by a killed process: whoever holds the lock is alone
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
                temporary = Path(folder) / f"made{path.suffix}"
                self._asked.append([])
                self._nested.append(0.0)
                start = time.perf_counter()
                try:
                    with announced(step.title, self._notify):
                        notes = dict(step.make(temporary, self) or {})
                finally:
                    whole = time.perf_counter() - start
                    inputs, nested = tuple(self._asked.pop()), self._nested.pop()
                    if self._nested:
                        self._nested[-1] += whole
                content: dict[str, Any] = {
                    "digest": file_digest(temporary),
                    "seconds": whole - nested,
                    "notes": notes,
                    "inputs": inputs,
                }
                try:
                    made = _sidecar(temporary)
                    made.write_text(json.dumps(content), encoding="utf-8")
                    made.replace(_sidecar(path))
                    temporary.replace(path)
                except OSError as error:
                    raise self._unwritable(error) from error
            return Entry(path, content["digest"], content["seconds"], notes, inputs, made=True)

    def _path(self, step: Step) -> Path:
        return self.root / step.kind / step.key[:2] / (step.key + step.suffix)

    def _attend(self) -> None:
        """Mark the folder as a store's, and this process as one that uses it."""
        if self._presence is not None:
            return
        try:
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            tag = self.root / _TAG
            if not tag.exists():
                tag.write_text(_SIGNATURE, encoding="utf-8")
            presence = FileLock(self.root / "locks" / f"run-{os.getpid()}-{id(self):x}.lock")
            presence.acquire()
            self._presence = presence
            weakref.finalize(self, _leave, presence)  # when the process ends, too, unless it is killed
            self._sweep()
        except OSError as error:
            raise self._unwritable(error) from error

    def _sweep(self) -> None:
        """Remove what killed processes left: half-made files, and the marks that they use the folder."""
        locks = self.root / "locks"
        for path in locks.glob("run-*.lock"):
            with contextlib.suppress(Timeout), FileLock(path, blocking=False):
                path.unlink(missing_ok=True)
        for kind in KINDS:
            for left in (self.root / kind).glob("??/.making-*"):
                with contextlib.suppress(Timeout), FileLock(locks / f"{left.name.split('-')[1]}.lock", blocking=False):
                    shutil.rmtree(left, ignore_errors=True)

    def _unwritable(self, error: OSError) -> PtqError:
        return PtqError(f"store {self.root}: cannot be written ({error.strerror}); set PTQ_CACHE to a folder that can")


def default_root() -> Path:
    """``PTQ_CACHE`` when set and not empty, else the platform's cache folder."""
    return Path(os.environ.get("PTQ_CACHE") or platformdirs.user_cache_path("ptq", appauthor=False))


def _leave(presence: FileLock) -> None:
    Path(presence.lock_file).unlink(missing_ok=True)  # before it is released: nobody then opens what is going
    presence.release(force=True)


def _entry(path: Path, content: Mapping[str, Any]) -> Entry:
    inputs = tuple((str(kind), float(seconds)) for kind, seconds in content["inputs"])
    return Entry(path, str(content["digest"]), float(content["seconds"]), dict(content["notes"]), inputs)


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.stem}.made.json")
