"""Files: written whole or not at all, and known by their bytes."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import platformdirs


@contextmanager
def appearing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes its name only when the block ends without an error: nobody ever sees half of it.

    Written under a temporary name in the same folder, then replaced. A link is followed; what is no regular file, a
    device or a pipe, is written through. The mode is that of the file that was there, else what the umask leaves.
    """
    target = path.resolve() if path.is_symlink() else path
    try:
        before = target.stat()
    except FileNotFoundError:
        before = None
    if before is not None and not stat.S_ISREG(before.st_mode):
        with target.open("wb") as through:
            yield through
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:200]}-{secrets.token_hex(8)}")
    mode = 0o666 if before is None else stat.S_IMODE(before.st_mode)
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
            yield file
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the name that was asked for
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as `appearing` does."""
    with appearing(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, content.encode())


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """``PTQ_CACHE`` when set and not empty, else the platform's cache folder."""
    return Path(os.environ.get("PTQ_CACHE") or platformdirs.user_cache_path("ptq", appauthor=False))
