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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock, Timeout

from ptq.engine.progress import Notify, announced, silent
from ptq.engine.remote import Held, Made, Remote, given_remote
from ptq.engine.step import Step
from ptq.errors import PtqError, Unsupported
from ptq.files import cache_folder, file_digest, sweep_scratch

KINDS = (
    "model",
    "samples",
    "statistics",
    "artifact",
    "census",
    "predictions",
    "score",
    "check",
    "explanation",
    "ratio",
    "source",
)
_TAG, _MARK = "CACHEDIR.TAG", ".ptq-store"
"""Name a folder as a store's. Backups leave out one with the first, so it is not put beside a user's own files."""
_REFUSED = "unsupported"
"""The note of a step that cannot be made: why not."""
_OWN = re.compile(r"(\.making-)?[0-9a-f]{64}\b")
_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# What ptq keeps; `ptq cache clear` empties it.\n"


@dataclass(frozen=True)
class Entry:
    """A stored file: where it lies, its sha256, what making it took, what its maker noted.

    `seconds` leaves out what the steps it asked for took; `inputs` are those, as (kind, seconds). `made` is True when
    this very call made it, False when it was found. `verify` is called before the file is handed out to be read.
    """

    file: Path
    digest: str
    seconds: float = 0.0
    notes: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[tuple[str, float], ...] = ()
    made: bool = False
    verify: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)

    @property
    def path(self) -> Path:
        """The file, to be read: its bytes have the digest, or were made again."""
        self.verify()
        return self.file

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.file.stat().st_size


class NotThere(Exception):
    """What a step makes is nowhere, and may not be made now."""


class Store:
    """Files addressed by the key of the step that made them.

    A file appears under its name only when it is whole (written to a temporary name, then replaced), and a lock
    per key makes concurrent processes build it once. Every file has its size and digest beside it: one of another size
    is made again when it is asked for, one of other bytes when it is read, and a line says so. `root` defaults to
    ``PTQ_CACHE``, else the platform's cache folder. What is not there is looked for in `remote` before it is made, and
    added to it when it was; without a `root`, it defaults to that of ``PTQ_STORE``. `counts` says what was ``made``,
    ``fetched`` and ``found``, by kind.
    """

    def __init__(self, root: Path | None = None, notify: Notify = silent, remote: Remote | None = None) -> None:
        self.remote = given_remote(notify) if root is None and remote is None else remote
        self.root = root if root is not None else cache_folder()
        self.counts: Counter[tuple[str, str]] = Counter()
        self._notify = notify
        self._verified: dict[Path, tuple[int, int]] = {}
        self._used: set[Path] = set()
        self._asked: list[list[tuple[str, float]]] = []
        self._nested: list[float] = []
        self._presence: FileLock | None = None
        self._entering = Lock()
        self._builds = True

    def get(self, step: Step) -> Entry:
        """The entry of a step, made if it is not there yet. Raises what making it raises: `Unsupported` is kept like
        what is made, for many refuse only after long work.
        """
        entry, how = self._noted(step), "found"
        if entry is None:
            entry, how = self._bring(step, self._builds)
        if entry is None:  # making it raises where it cannot be made
            raise NotThere(step.title)
        self.counts[step.kind, how] += 1
        if _REFUSED in entry.notes:
            raise Unsupported(entry.notes[_REFUSED])
        if self._asked:
            self._asked[-1].append((step.kind, entry.seconds))
        return entry

    def find(self, step: Step) -> Entry | None:
        """The entry of a step if it is here, or in the remote; it is not made."""
        entry = self._noted(step)
        if entry is not None or self.remote is None:
            return entry
        return self._bring(step, build=False)[0]

    def all_of(self, steps: Iterable[Step]) -> list[Path]:
        """The files of all steps; none where one is neither here nor in the remote."""
        found = []
        for step in steps:
            if (entry := self.find(step)) is None:
                return []
            found.append(entry.path)
        return found

    @contextlib.contextmanager
    def making_nothing(self) -> Iterator[None]:
        """Within the block, `get` raises `NotThere` for what would have to be made."""
        self._builds = False
        try:
            yield
        finally:
            self._builds = True

    def usage(self) -> Iterator[tuple[str, int, int]]:
        """(kind, files, bytes) for every kind there is something of."""
        for kind in KINDS:
            files = [path for path in (self.root / kind).rglob("*") if path.is_file()]
            kept = [path for path in files if not path.name.endswith(".made.json")]
            if kept:
                yield kind, len(kept), sum(path.stat().st_size for path in files)

    def clear(self) -> None:
        """Remove everything the store made on this machine, and nothing else in its folder.

        Raises `PtqError` for a folder that no store has marked as its own, and while another process uses it.
        """
        if not self.root.exists():
            return
        self._check_own()
        # by name, file by file: the folder may hold a user's own folder called `model`
        for path in [*(path for kind in KINDS for path in self.root.glob(f"{kind}/??/*")), *self.root.glob("locks/*")]:
            if _OWN.match(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for kind in KINDS:
            for path in [*(self.root / kind).glob("??"), self.root / kind]:
                with contextlib.suppress(OSError):  # not empty, or not there
                    path.rmdir()
        self._verified.clear()

    def prune(self, goes: Callable[[Collection[Held]], Collection[str]]) -> tuple[int, int]:
        """Remove what was made on this machine by the keys that `goes` returns; (files, bytes) removed.

        `Held.when` is when a file was last used. Raises as `clear` does.
        """
        if not self.root.exists():
            return 0, 0
        self._check_own()
        files: dict[str, list[Path]] = {}
        for path in (path for kind in KINDS for path in self.root.glob(f"{kind}/??/*") if path.is_file()):
            if _OWN.match(path.name) and not path.name.startswith("."):
                files.setdefault(path.name[:64], []).append(path)
        sizes = {key: sum(path.stat().st_size for path in paths) for key, paths in files.items()}
        held = [Held(key, max(path.stat().st_mtime for path in paths), sizes[key], key) for key, paths in files.items()]
        gone = [key for key in goes(sorted(held, key=lambda each: (each.when, each.key))) if key in files]
        for key in gone:
            for path in files[key]:
                path.unlink(missing_ok=True)
        self._verified.clear()
        return len(gone), sum(sizes[key] for key in gone)

    def _check_own(self) -> None:
        """Raise `PtqError` unless the folder is a store's, and no other process uses it."""
        tags = [path for name in (_TAG, _MARK) if (path := self.root / name).is_file()]
        if _SIGNATURE not in (path.read_text(encoding="utf-8", errors="replace") for path in tags):
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

    def _noted(self, step: Step) -> Entry | None:
        """The entry of a step by the note beside its file, which is read when `Entry.path` is asked for."""
        path = self._path(step)
        note = _sidecar(path)
        try:
            size, content = path.stat().st_size, json.loads(note.read_bytes())
            entry, noted = _entry(path, content, self._verifying(step, content["digest"])), content.get("bytes", size)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._notify(f"{step.title}: the note beside a kept file is damaged; made again")
            return None
        if noted != size:
            self._notify(f"{step.title}: a kept file is damaged; made again")
            return None
        if path not in self._used:
            self._used.add(path)
            self._attend()
            with contextlib.suppress(OSError):  # the note's time is that of the last use, see `prune`
                os.utime(note)
        return entry

    def _found(self, step: Step) -> Entry | None:
        """The entry of a step whose file is what its note says."""
        entry = self._noted(step)
        return entry if entry is not None and self._whole(entry, step.title) else None

    def _whole(self, entry: Entry, title: str) -> bool:
        """Whether a file has its digest; of one that was looked at, and has not changed since, it is known."""
        try:
            stat = entry.file.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if self._verified.get(entry.file) != stamp:
                if file_digest(entry.file) != entry.digest:
                    self._notify(f"{title}: a kept file is damaged; made again")
                    return False
                self._verified[entry.file] = stamp
        except FileNotFoundError:  # cleared meanwhile
            return False
        return True

    def _verifying(self, step: Step, digest: str) -> Callable[[], None]:
        """`_verify`, for an entry that outlives the store."""
        root, store = self.root, weakref.ref(self)
        return lambda: (store() or Store(root))._verify(step, digest)

    def _verify(self, step: Step, digest: str) -> None:
        """Make the file of a step again where it is not what `digest` says."""
        if self._whole(Entry(self._path(step), digest), step.title):
            return
        entry, how = self._bring(step, self._builds)
        if entry is None:
            raise NotThere(step.title)
        self.counts[step.kind, how] += 1
        if entry.digest != digest:  # what was made of it since has the old bytes in its key
            raise PtqError(f"{step.title}: a kept file was damaged, and other bytes were made again: run it once more")

    def _bring(self, step: Step, build: bool) -> tuple[Entry | None, str]:
        """The entry of a step that is not here, and whether it was ``made``, ``fetched``, or ``found`` after all; None
        when it is nowhere, and not to be built.
        """
        path = self._path(step)
        lock = self.root / "locks" / f"{step.key}.lock"
        self._attend()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        with FileLock(lock):
            if (entry := self._found(step)) is not None:
                return entry, "found"
            prefix = f".making-{step.key}-"  # what a killed process leaves is swept when the next one starts
            # all in one folder, which is soon searched; the same file system, so that a rename will do
            with tempfile.TemporaryDirectory(dir=lock.parent, prefix=prefix, ignore_cleanup_errors=True) as folder:
                # names of their own: a request that was given up may still write to its file
                temporary, how = Path(folder) / f"fetched{path.suffix}", "fetched"
                content = None if self.remote is None else self.remote.fetch(step.key, step.kind, temporary)
                if content is None and not build:
                    return None, "missing"
                if content is None:
                    temporary, how = Path(folder) / f"made{path.suffix}", "made"
                    content = self._built(step, temporary)
                try:
                    made = _sidecar(temporary)
                    made.write_text(json.dumps(content), encoding="utf-8")
                    made.replace(_sidecar(path))
                    temporary.replace(path)
                except OSError as error:
                    raise self._unwritable(error) from error
        if self.remote is not None and how == "made":
            self.remote.put(step.key, step.kind, path, content)
        entry = _entry(path, content, self._verifying(step, content["digest"]))
        return (replace(entry, made=True), how) if how == "made" else (entry, how)

    def _built(self, step: Step, temporary: Path) -> Made:
        """Make the file of a step at `temporary`; what making it took."""
        self._asked.append([])
        self._nested.append(0.0)
        start = time.perf_counter()
        try:
            with announced(step.title, self._notify):
                notes = dict(step.make(temporary, self) or {})
        except Unsupported as reason:
            if _passes(reason.__cause__):
                raise
            temporary.write_bytes(b"")
            notes = {_REFUSED: str(reason)}
        finally:
            whole = time.perf_counter() - start
            inputs, nested = self._asked.pop(), self._nested.pop()
            if self._nested:
                self._nested[-1] += whole
        size = temporary.stat().st_size
        return Made(digest=file_digest(temporary), bytes=size, seconds=whole - nested, notes=notes, inputs=inputs)

    def _path(self, step: Step) -> Path:
        return self.root / step.kind / step.key[:2] / (step.key + step.suffix)

    def _attend(self) -> None:
        """Mark the folder as a store's, and this process as one that uses it."""
        with self._entering:
            if self._presence is None:
                self._enter()

    def _enter(self) -> None:
        try:
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            tags = [self.root / name for name in (_TAG, _MARK)]
            if not any(map(os.path.lexists, tags)):
                alone = {path.name for path in self.root.iterdir()} <= {*KINDS, "locks"}
                tags[0 if alone else 1].write_text(_SIGNATURE, encoding="utf-8")
            presence = FileLock(self.root / "locks" / f"run-{os.getpid()}-{id(self):x}.lock")
            presence.acquire()
            self._presence = presence
            weakref.finalize(self, _leave, presence)  # when the process ends, too, unless it is killed
            self._sweep()
        except OSError as error:
            raise self._unwritable(error) from error

    def _sweep(self) -> None:
        """Remove what killed processes left: half-made files, the marks that they use the folder, scratch folders."""
        sweep_scratch()
        locks = self.root / "locks"
        for path in locks.glob("run-*.lock"):
            with contextlib.suppress(Timeout), FileLock(path, blocking=False):
                path.unlink(missing_ok=True)
        for left in locks.glob(".making-*"):
            with contextlib.suppress(Timeout), FileLock(locks / f"{left.name.split('-')[1]}.lock", blocking=False):
                shutil.rmtree(left, ignore_errors=True)

    def _unwritable(self, error: OSError) -> PtqError:
        return PtqError(f"store {self.root}: cannot be written ({error.strerror}); set PTQ_CACHE to a folder that can")


def _passes(cause: BaseException | None) -> bool:
    """Whether what made a step be refused is the machine's state now: the next run may see none of it."""
    return isinstance(cause, MemoryError | OSError) or "memory" in str(cause)


def _leave(presence: FileLock) -> None:
    Path(presence.lock_file).unlink(missing_ok=True)  # before it is released: nobody then opens what is going
    presence.release(force=True)


def _entry(path: Path, content: Mapping[str, Any], verify: Callable[[], None]) -> Entry:
    inputs = tuple((str(kind), float(seconds)) for kind, seconds in content["inputs"])
    digest, seconds, notes = str(content["digest"]), float(content["seconds"]), dict(content["notes"])
    return Entry(path, digest, seconds, notes, inputs, verify=verify)


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.stem}.made.json")
