"""Remote: the store's second level, which machines share: any folder, bucket or container that fsspec reaches.

``cas/<sha256>`` are the bytes, ``ac/<key>`` a small JSON that names them and says what made them. Both are written once
and never changed, but for what was found damaged. Whoever may write is trusted to have made what an entry says; whoever
only reads is protected: nothing is believed before its digest, size, key and types are checked, and no name that
another wrote becomes a path.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypedDict, TypeVar

from ptq.data.shape import check
from ptq.engine.environment import LIBRARIES, instruction_sets, versions
from ptq.engine.progress import Notify, silent
from ptq.errors import NotInstalled, PtqError, one_line
from ptq.files import appearing, scratch

SCHEMA = "ptq-ac/1"
PATIENCE = 10.0
"""Seconds that a request may take; `RATE` is added for what it moves."""
RATE = 1e6
"""Bytes a second, the slowest that is waited for."""
REST = 60.0
"""Seconds for which a remote that failed is left alone."""
LARGEST_ENTRY = 1 << 20
LARGEST_NOTE = 1 << 24
LARGEST = 1 << 36
"""Bytes of an entry, of a note, and of what an entry names."""
_PART = 1 << 26
_DIGEST = re.compile(r"[0-9a-f]{64}")
_GRACE = 3600.0
_STALE = 90 * 86400.0

T = TypeVar("T")


class Made(TypedDict):
    """What making a file took, as the note beside it says: see `ptq.engine.store.Entry`."""

    digest: str
    bytes: int
    seconds: float
    notes: dict[str, str]
    inputs: list[tuple[str, float]]


class _Entry(Made):
    schema: str
    key: str
    kind: str
    made_by: dict[str, Any]


@dataclass(frozen=True)
class Held:
    """One entry of a remote: its key, when it was written (seconds since 1970), the bytes it names and their digest."""

    key: str
    when: float
    size: int
    digest: str


class Remote:
    """A remote at `url`: ``s3://``, ``gs://``, ``az://``, ``file://``, ``memory://``, a folder, whatever fsspec knows.

    Nothing that is amiss with it raises: it is as if it had nothing, and one line says so, in `faults` by what it is
    about (a key, or empty: the whole) and through `notify`. A remote that fails is left alone for `REST` seconds.
    `counts` are ``requests``, ``fetched`` and ``sent``, the latter two in bytes.

    Raises `NotInstalled` without fsspec or the driver of `url`, `PtqError` for a URL that is none.
    """

    def __init__(self, url: str, read_only: bool = False, notify: Notify = silent, patience: float = PATIENCE) -> None:
        self.url = url
        self.name = re.sub(r"//[^/@]*@", "//", url)  # without a password
        self.read_only = read_only
        self.faults: dict[str, str] = {}
        self.counts = {"requests": 0, "fetched": 0, "sent": 0}
        self._notify, self._patience = notify, patience
        self._until: dict[str, float] = {}
        self._damaged: set[str] = set()
        self._fs, self._root = _opened(url, self.name)

    def fetch(self, key: str, kind: str, out: Path) -> Made | None:
        """Write what `key` made to `out`, and return the note on it; None, and nothing believed, when it is not there,
        is not what it should be, or the remote fails.
        """
        if not self._open("reading"):
            return None
        try:
            content = self._read(f"ac/{key}", 0, LARGEST_ENTRY + 1)
            entry = _entry(content, key, kind)
            self._copy(entry, out)
        except FileNotFoundError:
            return None
        except _Damaged as fault:
            self._damaged.add(key)
            self._tell(key, f"{kind} {key[:12]} there {fault}; made again here")
            return None
        except Exception as error:
            self._failed("reading", error)
            return None
        self.counts["fetched"] += entry["bytes"]
        return Made(
            digest=entry["digest"], bytes=entry["bytes"], seconds=entry["seconds"], notes=entry["notes"],
            inputs=entry["inputs"],
        )  # fmt: skip

    def put(self, key: str, kind: str, path: Path, made: Made) -> None:
        """Add the file at `path`, which `key` made, unless it is there."""
        if self.read_only or not self._open("writing"):
            return
        size = made["bytes"]
        entry: _Entry = {
            **made, "schema": SCHEMA, "key": key, "kind": kind,
            "made_by": {"libraries": versions(LIBRARIES), "isa": list(instruction_sets())},
        }  # fmt: skip
        target = f"cas/{made['digest']}"
        anew = key in self._damaged
        try:
            with scratch() as folder:
                note = folder / "entry"
                note.write_text(json.dumps(entry, sort_keys=True))
                # the bytes first: an entry never names what is not there
                if anew or self._size(target) != size:
                    self._write(target, path)
                self._write(f"ac/{key}", note, once=not anew)
        except Exception as error:
            self._failed("writing", error)
            return
        self._damaged.discard(key)
        self.counts["sent"] += size

    def read_note(self, name: str) -> Any:
        """What the note ``folder/<digest>`` says; None where it is not there, is no JSON, or the remote fails."""
        if not self._open("reading"):
            return None
        try:
            return json.loads(self._read(name, 0, LARGEST_NOTE))
        except (FileNotFoundError, _Damaged, ValueError, RecursionError):
            return None
        except Exception as error:
            self._failed("reading", error)
            return None

    def write_note(self, name: str, content: object, once: bool = False) -> None:
        """Write a note, JSON; with `once`, unless it is there."""
        if self.read_only or not self._open("writing"):
            return
        try:
            with scratch() as folder:
                note = folder / "note"
                note.write_text(json.dumps(content, sort_keys=True))
                self._write(name, note, once)
        except Exception as error:
            self._failed("writing", error)

    def notes(self, folder: str) -> list[str]:
        """The names of the notes in a folder, oldest first; none where the remote fails."""
        if not self._open("reading"):
            return []
        try:
            listed = self._listed(folder)
        except PtqError as error:
            self._failed("reading", error)
            return []
        return [f"{folder}/{name}" for name, _ in sorted(listed.items(), key=lambda each: (each[1], each[0]))]

    def held(self) -> list[Held]:
        """Every entry, oldest first. Raises `PtqError` where the remote cannot be listed."""
        listed = {name: when for name, (when, size) in self._listed("ac").items() if size <= LARGEST_ENTRY}
        names = [f"{self._root}/ac/{name}" for name in listed]
        contents = self._asked(lambda: self._fs.cat(names, on_error="return")) if names else {}
        found = []
        for path, content in contents.items():
            with suppress(_Damaged):
                entry = _entry(content if isinstance(content, bytes) else b"", path.rpartition("/")[2], None)
                found.append(Held(entry["key"], listed[entry["key"]], entry["bytes"], entry["digest"]))
        return sorted(found, key=lambda each: (each.when, each.key))

    def usage(self) -> tuple[int, int]:
        """(entries, bytes of all that is kept)."""
        entries, kept = self._listed("ac"), self._listed("cas")
        return len(entries), sum(size for _, size in (*entries.values(), *kept.values()))

    def prune(self, goes: Callable[[Collection[Held]], Collection[str]]) -> tuple[int, int]:
        """Remove the entries whose keys `goes` returns, and all bytes that no entry names; (entries, bytes) removed."""
        entries = self.held()
        gone = set(goes(entries))
        kept = {each.digest for each in entries if each.key not in gone}
        names = [f"ac/{key}" for key in sorted(gone)]
        # of bytes without an entry, the youngest may just be waiting for theirs
        loose = {
            name: size
            for name, (when, size) in self._listed("cas").items()
            if name not in kept and (when < time.time() - _GRACE or any(each.digest == name for each in entries))
        }
        hints = [
            f"{folder}/{name}"
            for folder in ("plan", "seconds")
            for name, (when, _) in self._listed(folder).items()
            if when < time.time() - _STALE
        ]
        for name in [*names, *(f"cas/{name}" for name in sorted(loose)), *hints]:
            self._asked(partial(self._fs.rm_file, f"{self._root}/{name}"))
        return len(gone), sum(loose.values())

    def _listed(self, folder: str) -> dict[str, tuple[float, int]]:
        """(when it was written, bytes) of every file in a folder that has a digest's name."""
        where = f"{self._root}/{folder}"
        self._fs.invalidate_cache()
        try:
            found = self._asked(lambda: self._fs.find(where, detail=True))
        except FileNotFoundError:
            return {}
        names = {path.rpartition("/")[2]: (path, info) for path, info in found.items()}
        return {
            name: (_when(info) or self._asked(partial(self._fs.modified, path)).timestamp(), info["size"])
            for name, (path, info) in names.items()
            if _DIGEST.fullmatch(name)
        }

    def _asked(self, act: Callable[[], T]) -> T:
        """What a request gives; `PtqError` where it fails."""
        try:
            return _within(600.0, act)
        except (FileNotFoundError, _Damaged):
            raise
        except Exception as error:
            raise PtqError(f"store {self.name}: {_said(error)}") from error

    def _copy(self, entry: _Entry, out: Path) -> None:
        whole, size = hashlib.sha256(), entry["bytes"]
        with out.open("wb") as file:
            for start in range(0, size, _PART):
                part = self._read(f"cas/{entry['digest']}", start, min(start + _PART, size))
                whole.update(part)
                file.write(part)
        if whole.hexdigest() != entry["digest"]:
            raise _Damaged("is damaged")

    def _read(self, name: str, start: int, stop: int) -> bytes:
        self.counts["requests"] += 1
        seconds = self._patience + (stop - start) / RATE
        try:
            found: bytes = _within(seconds, lambda: self._fs.cat_file(f"{self._root}/{name}", start=start, end=stop))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EISDIR):  # a range that an empty object does not have
                raise _Damaged("is damaged") from error
            raise
        return found

    def _size(self, name: str) -> int | None:
        self.counts["requests"] += 1
        try:
            found: int | None = _within(self._patience, lambda: self._fs.info(f"{self._root}/{name}")["size"])
        except FileNotFoundError:
            return None
        return found

    def _write(self, name: str, source: Path, once: bool = False) -> None:
        """Write a file whole; with `once`, unless another did so in the meantime."""
        self.counts["requests"] += 1
        target = f"{self._root}/{name}"

        def put() -> None:
            if "file" not in _protocols(self._fs):  # what is put into a bucket appears whole
                with suppress(FileExistsError):
                    self._fs.put_file(str(source), target, mode="create" if once else "overwrite")
            elif not (once and Path(target).exists()):
                with source.open("rb") as read, appearing(Path(target)) as file:
                    shutil.copyfileobj(read, file)

        _within(self._patience + source.stat().st_size / RATE, put)

    def _open(self, what: str) -> bool:
        return time.monotonic() >= self._until.get(what, 0.0)

    def _failed(self, what: str, error: Exception) -> None:
        # who may not write may read; what cannot be read is not worth a second wait
        for each in (what, "writing"):
            self._until[each] = time.monotonic() + REST
        self._tell("", f"{what} fails ({_said(error)}); going on with what is kept and made on this machine")

    def _tell(self, about: str, line: str) -> None:
        if about not in self.faults:
            self.faults[about] = f"store {self.name}: {line}"
            self._notify(self.faults[about])


class _Damaged(Exception):
    """An entry or its bytes are not what they should be; the text ends a sentence."""


def given_remote(notify: Notify = silent, url: str | None = None, read_only: bool = False) -> Remote | None:
    """The remote at `url`, else at ``PTQ_STORE``; None when there is neither. ``PTQ_STORE_READ_ONLY`` set to anything
    but 0 makes it read-only, too.
    """
    url = url or os.environ.get("PTQ_STORE")
    given = os.environ.get("PTQ_STORE_READ_ONLY", "0") not in ("", "0")
    return Remote(url, read_only or given, notify) if url else None


def _opened(url: str, name: str) -> tuple[Any, str]:
    """(file system, path in it) of a URL; asks nobody."""
    try:
        import fsspec
    except ImportError as error:
        raise NotInstalled(f"store {name}: fsspec is not installed: pip install 'ptq[cluster]'") from error
    try:
        system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise NotInstalled(f"store {name}: {one_line(error)}") from error
    except Exception as error:
        raise PtqError(f"store {name}: no URL that fsspec knows ({one_line(error)}): e.g. s3://bucket/ptq") from error
    return system, str(root).rstrip("/")


def _within(seconds: float, act: Callable[[], T]) -> T:
    """What `act` returns or raises; `TimeoutError` when it takes longer, and it is left to itself then."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(act())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from error


def _entry(content: bytes, key: str, kind: str | None) -> _Entry:
    """An entry, checked; `_Damaged` for what is none."""
    if len(content) > LARGEST_ENTRY:
        raise _Damaged("has an entry that is too large")
    try:
        entry = json.loads(content)
        check(entry, _Entry, "entry")
    except (ValueError, RecursionError, PtqError) as error:
        raise _Damaged("has a damaged entry") from error
    numbers = [entry["seconds"], *(seconds for _, seconds in entry["inputs"])]
    if entry["schema"] != SCHEMA or not _DIGEST.fullmatch(entry["digest"]) or not 0 <= entry["bytes"] <= LARGEST:
        raise _Damaged("has an entry that cannot be")
    if not all(isinstance(each, str) for each in entry["notes"].values()):
        raise _Damaged("has an entry that cannot be")
    if not all(math.isfinite(each) and each >= 0 for each in numbers):
        raise _Damaged("has an entry that cannot be")
    if entry["key"] != key or (kind is not None and entry["kind"] != kind):
        raise _Damaged("has the entry of another key")
    found: _Entry = entry
    return found


def _when(info: Mapping[str, Any]) -> float:
    """When a file was written, seconds since 1970; 0 when its listing does not say. Drivers have names of their own."""
    for name in ("LastModified", "mtime", "updated", "last_modified", "created"):
        found = info.get(name)
        if isinstance(found, datetime):
            return found.timestamp()
        if isinstance(found, int | float):
            return float(found)
    return 0.0


def _protocols(system: Any) -> tuple[str, ...]:
    names = system.protocol
    return (names,) if isinstance(names, str) else tuple(names)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error, 120)}"
