"""Array files: .npy and .npz, opened without trusting what they say of themselves."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from ptq.data.batch import Array
from ptq.errors import BadData, one_line

LARGEST = 4 << 30
"""Bytes of an .npz that is read into memory as a whole."""
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_BROKEN = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def read_array(path: Path) -> Array:
    """The array of an .npy file, mapped from disk: memory is taken for the rows that are looked at.

    Raises `BadData` for a file that is no array, is cut short, or would have to be unpickled.
    """
    try:
        with path.open("rb") as file:
            shape, fortran, dtype = _header(file, str(path))
            offset, claimed = file.tell(), _bytes(shape, dtype)
        held = path.stat().st_size - offset
        if held < claimed:
            raise BadData(f"{path}: its header says {claimed:,} bytes, but it holds {held:,}: copy it again")
        if claimed == 0:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
    except _BROKEN as error:
        raise BadData(f"{path}: cannot be read as .npy ({one_line(error)}); write it with numpy.save") from error


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by name, in its order, in memory.

    Raises `BadData` for a file that is no archive of arrays, is damaged, holds more than `LARGEST` bytes, or would have
    to be unpickled. What headers say is checked before memory is taken.
    """
    found: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if (total := sum(member.file_size for member in members)) > LARGEST:
                raise BadData(
                    f"{path}: {total:,} bytes unpacked, but should be at most {LARGEST:,}: write an .npy, which is "
                    "mapped from disk, or a folder of .npz files, which is read file by file"
                )
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name in found:
                    raise BadData(
                        f"{path}: holds {member.filename!r}, but should hold arrays, each name once; write it with "
                        "numpy.savez"
                    )
                with archive.open(member) as file:
                    found[name] = _member(file, member.file_size, f"{path}: {name!r}")
    except _BROKEN as error:
        raise BadData(f"{path}: cannot be read as .npz ({one_line(error)}); write it with numpy.savez") from error
    if not found:
        raise BadData(f"{path}: holds no array, but should hold one an input of the model, by its name")
    return found


def _member(file: IO[bytes], size: int, where: str) -> Array:
    shape, fortran, dtype = _header(file, where)
    claimed, held = _bytes(shape, dtype), size - file.tell()
    if claimed != held:
        raise BadData(f"{where}: its header says {claimed:,} bytes, but it holds {held:,}: write it with numpy.savez")
    if claimed == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(file.read(claimed), dtype).reshape(shape, order="F" if fortran else "C")


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in _READERS:
        raise BadData(f"{where}: format {version}, but should be 1.0 or 2.0: write it with numpy.save")
    shape, fortran, dtype = _READERS[version](file)
    if dtype.hasobject:
        raise BadData(
            f"{where}: holds Python objects, which only pickle reads, and pickle runs code: save arrays of numbers; "
            "for samples of different shape, one .npz a sample in a folder"
        )
    return shape, fortran, dtype


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize
