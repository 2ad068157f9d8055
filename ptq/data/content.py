"""Content: what a file holds, read within a limit that is held before memory is taken."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from ptq.errors import BadData

LARGEST_JSON = 1 << 30
"""Bytes of a JSON file: those of COCO have 470 MB. In memory a crafted one takes up to 25 times what it has on disk."""
_CHUNK = 1 << 20


def size_of_file(path: Path) -> int:
    """Bytes of a regular file. `BadData` for a folder, a pipe or a device: opening these may wait for ever, or read
    without end. `OSError` where there is nothing.
    """
    held = _status(path)
    if not stat.S_ISREG(held.st_mode):
        raise BadData(f"{path}: is a {_kind(held.st_mode)}, but should be a file")
    return held.st_size


def read_bytes(path: Path, largest: int) -> bytes:
    """The bytes of a regular file, `BadData` for another and for more than `largest`. `OSError` as `open` raises it."""
    if (size := size_of_file(path)) > largest:
        raise _too_large(path, f"{size:,}", largest)
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """What a JSON file says, or what a pipe gives: ``ptq diff <(git show HEAD:report.json) report.json``.

    Raises `BadData` for a folder, a device and for more than `LARGEST_JSON` bytes; `OSError` as `open` does; and
    `ValueError` for what is no JSON, or is nested too deep to be read. It may say NaN and Infinity: `ptq.data.shape`
    refuses those.
    """
    is_pipe = stat.S_ISFIFO(_status(path).st_mode)
    content = _from_pipe(path, LARGEST_JSON) if is_pipe else read_bytes(path, LARGEST_JSON)
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except ValueError as error:  # a NUL in its name
        raise BadData(f"{path}: cannot be the name of a file ({error})") from error


def _from_pipe(path: Path, largest: int) -> bytes:
    # without waiting for somebody to write: a pipe that nobody holds is empty
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        os.set_blocking(file.fileno(), True)
        content = bytearray()
        while chunk := file.read(_CHUNK):
            content += chunk
            if len(content) > largest:
                raise _too_large(path, "more", largest)
    return bytes(content)


def _too_large(path: Path, size: str, largest: int) -> BadData:
    return BadData(f"{path}: {size} bytes, but should have at most {largest:,}: is it the right file?")


def _kind(mode: int) -> str:
    return "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device or socket"
