"""Array files: .npy and .npz, opened without trusting what they say of themselves."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from ptq.data.batch import Array
from ptq.data.content import size_of_file
from ptq.errors import BadData, PtqError, one_line

LARGEST = 4 << 30
"""Bytes of an .npz that is read into memory as a whole."""
UNPACKED, RATIO = 256 << 20, 50
"""Above `UNPACKED` bytes, the arrays of an .npz may be at most `RATIO` times as large as the file: a few kB can unpack
to gigabytes of zeros.
"""
LARGEST_HEADER = 16 << 10
"""Bytes of an array's description; numpy itself takes 10,000 characters."""
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_array(path: Path) -> Array:
    """The array of an .npy file, mapped from disk: memory is taken for the rows that are looked at.

    Raises `BadData` for a file that is no array, is cut short, or would have to be unpickled.
    """
    try:
        size = size_of_file(path)
        with path.open("rb") as file:
            (shape, fortran, dtype), offset = _header(file, str(path))
        held, claimed = size - offset, _bytes(shape, dtype)
        if held < claimed:
            raise BadData(f"{path}: its header says {claimed:,} bytes, but it holds {held:,}: copy it again")
        if claimed == 0:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
    except PtqError:
        raise
    except Exception as error:  # numpy's of a header that is none: of many kinds
        raise BadData(f"{path}: cannot be read as .npy ({one_line(error)}); write it with numpy.save") from error


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by name, in its order, in memory.

    Raises `BadData` for a file that is no archive of arrays, is damaged, holds more than `LARGEST` bytes or more than
    `RATIO` times its own, or would have to be unpickled. What headers say is checked before memory is taken.
    """
    found: dict[str, Array] = {}
    try:
        size = size_of_file(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            most = min(LARGEST, max(UNPACKED, RATIO * size))
            if (total := sum(member.file_size for member in members)) > most:
                raise BadData(
                    f"{path}: {total:,} bytes unpacked, but should be at most {most:,}: write an .npy, which is mapped "
                    "from disk, or a folder of .npz files, which is read file by file"
                )
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name in found or member.compress_type not in _PACKINGS:
                    raise BadData(
                        f"{path}: holds {member.filename[:80]!r}, but should hold arrays, each name once, as "
                        "numpy.savez writes them"
                    )
                with archive.open(member) as file:
                    found[name] = _member(file, member.file_size, f"{path}: {name[:80]!r}")
    except PtqError:
        raise
    except Exception as error:  # zipfile's, zlib's and numpy's of what is none of theirs: of many kinds
        raise BadData(f"{path}: cannot be read as .npz ({one_line(error)}); write it with numpy.savez") from error
    if not found:
        raise BadData(f"{path}: holds no array, but should hold one an input of the model, by its name")
    return found


def _member(file: IO[bytes], size: int, where: str) -> Array:
    (shape, fortran, dtype), offset = _header(file, where)
    claimed, held = _bytes(shape, dtype), size - offset
    if claimed != held:
        raise BadData(f"{where}: its header says {claimed:,} bytes, but it holds {held:,}: write it with numpy.savez")
    if claimed == 0:
        return np.empty(shape, dtype)
    file.seek(offset)
    return np.frombuffer(file.read(claimed), dtype).reshape(shape, order="F" if fortran else "C")


def _header(file: IO[bytes], where: str) -> tuple[tuple[tuple[int, ...], bool, np.dtype[Any]], int]:
    """(shape, Fortran order, dtype) and where the values begin."""
    start = io.BytesIO(file.read(LARGEST_HEADER))  # numpy reads as much as a header claims before it objects
    version = np.lib.format.read_magic(start)
    if version not in _READERS:
        raise BadData(f"{where}: format {version}, but should be 1.0 or 2.0: write it with numpy.save")
    shape, fortran, dtype = _READERS[version](start)
    if dtype.hasobject:
        raise BadData(
            f"{where}: holds Python objects, which only pickle reads, and pickle runs code: save arrays of numbers; "
            "for samples of different shape, one .npz a sample in a folder"
        )
    if dtype.itemsize == 0 or any(size < 0 for size in shape):
        raise BadData(f"{where}: {dtype} of shape {str(shape)[:80]} cannot be: write it with numpy.save")
    return (shape, fortran, dtype), start.tell()


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize
