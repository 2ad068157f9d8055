"""Files: written whole or not at all, and known by their bytes."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import platformdirs
from filelock import FileLock, Timeout


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


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of its own for what is not to stay, in the system's temporary folder.

    A lock is held beside it as long as the block runs: what a killed process left is told by that, see `sweep_scratch`.
    """
    root = _scratch_root()
    if root is None:  # somebody else has that name
        with tempfile.TemporaryDirectory(prefix="ptq-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    name = secrets.token_hex(8)
    with FileLock(root / f"{name}.lock") as lock:
        try:
            (root / name).mkdir()
            yield root / name
        finally:
            shutil.rmtree(root / name, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


def sweep_scratch() -> None:
    """Remove the folders of `scratch` whose process is gone."""
    root = _scratch_root()
    for path in sorted(root.glob("*.lock")) if root is not None else ():
        with suppress(Timeout, OSError), FileLock(path, blocking=False):
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink(missing_ok=True)


def _scratch_root() -> Path | None:
    """This user's own folder for `scratch`; None where what has its name is not: a link, or another user's."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    root = Path(tempfile.gettempdir()) / f"ptq-scratch-{user}"
    with suppress(FileExistsError):
        root.mkdir(mode=0o700)
    found = root.lstat()
    own = stat.S_ISDIR(found.st_mode) and (user == found.st_uid) and not found.st_mode & 0o022
    return root if own or os.name == "nt" else None


def cache_folder() -> Path:
    """``PTQ_CACHE`` when set and not empty, else the platform's cache folder."""
    return Path(os.environ.get("PTQ_CACHE") or platformdirs.user_cache_path("ptq", appauthor=False))
