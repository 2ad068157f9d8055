"""CIFAR-10 as published: the python batches, in a folder or in the public archive.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.data.content import read_bytes, size_of_file
from ptq.data.images import Images, Split
from ptq.data.pickles import Array, load
from ptq.data.samples import Labels
from ptq.errors import BadData, NoData, one_line

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
META = "batches.meta"
BATCHES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
CLASSES = 10
ROW = 3 * 32 * 32
LARGEST = 256 << 20
"""Bytes of the files of a split, and of an archive unpacked. All 60,000 images take 184 MB: whatever claims more is not
CIFAR-10, and is not to fill the memory.
"""
_BLOCK, _CHUNK = tarfile.BLOCKSIZE, 1 << 20

Batch = tuple[npt.NDArray[np.uint8], Labels]


def read(source: Path, split: Split) -> Images:
    """The images of a split, in the order of its batches, any number of rows a batch.

    Parameters
    ----------
    source: the folder with the batches, a folder that holds ``cifar-10-batches-py/`` or ``cifar-10-python.tar.gz``,
        or such an archive itself, which is read as a stream; nothing is extracted to disk.
    split: ``train`` (data_batch_1..5) or ``test`` (test_batch).

    Returns uint8 NHWC (N, 32, 32, 3) RGB 0..255 with int64 labels 0..9; `Images.inputs` has them as float32.
    Raises `NoData` when there is no data set at `source`, `BadData` when a file of it is missing, truncated, crafted,
    larger than `LARGEST`, or does not hold what it should.
    """
    found = _locate(source)
    wanted = (META, *BATCHES[split])
    files = _in_folder(found, wanted) if found.is_dir() else _in_archive(found, wanted)
    names: tuple[str, ...] = ()
    batches: dict[str, Batch] = {}
    for name, where, content in files:
        if name == META:
            names = _class_names(content, where)
        else:
            batches[name] = _batch(content, where)
    ordered = [batches[name] for name in BATCHES[split]]
    return Images(
        pixels=np.concatenate([pixels for pixels, _ in ordered]),
        labels=np.concatenate([labels for _, labels in ordered]),
        class_names=names,
        name=f"cifar10 {split}",
    )


def files(source: Path, split: Split) -> list[Path]:
    """The files `read` looks at; raises `NoData` as it does. One that is absent is left out: `read` says so."""
    found = _locate(source)
    if not found.is_dir():
        size_of_file(found)
        return [found]
    return [found / name for name in (META, *BATCHES[split]) if (found / name).is_file()]


def _locate(source: Path) -> Path:
    """The folder with the batches, or the archive."""
    if source.exists() and not source.is_dir():
        return source
    every = (META, *BATCHES["train"], *BATCHES["test"])
    for folder in (source, source / FOLDER):
        if any((folder / name).exists() for name in every):
            return folder
    if (source / ARCHIVE).is_file():
        return source / ARCHIVE
    raise NoData(
        f"{source}: no CIFAR-10 here, but there should be {FOLDER}/ or {ARCHIVE}; "
        "get it from https://www.cs.toronto.edu/~kriz/cifar.html"
    )


def _in_folder(folder: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, str, bytes]]:
    """(name, what to call it, content) of every wanted file."""
    left = LARGEST
    for name in wanted:
        path = folder / name
        try:
            content = read_bytes(path, left)
        except FileNotFoundError:
            raise BadData(f"{path}: no such file, but there should be {', '.join(wanted)}") from None
        except OSError as error:
            raise BadData(f"{path}: cannot be read ({error.strerror})") from error
        left -= len(content)
        yield name, str(path), content


def _in_archive(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, str, bytes]]:
    """(name, what to call it, content) of every wanted member, in the archive's order.

    The headers are taken one by one, and what is not wanted is passed over: `tarfile.open` would take in what an
    extended header claims, and keep every member. The archive is read to its end: only then has gzip compared its
    checksum.
    """
    seen: set[str] = set()
    try:
        size_of_file(path)
        with gzip.open(path) as unzipped:
            stream = _Capped(unzipped, str(path))
            while (block := stream.read(_BLOCK)).strip(b"\0"):
                member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                name = PurePosixPath(member.name).name
                where = f"{path}:{member.name!r}"
                if member.size < 0:
                    raise tarfile.ReadError(f"{name!r} has {member.size} bytes")
                if name not in wanted or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    stream.skip(_padded(member.size))
                    continue
                if name in seen:
                    raise BadData(f"{where}: a second {name}, but there should be one")
                seen.add(name)
                content = stream.read(member.size)
                stream.skip(_padded(member.size) - len(content))
                yield name, where, content
            stream.drain()
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        raise BadData(
            f"{path}: not a whole .tar.gz ({one_line(error, 120)}); likely cause: an incomplete download; "
            f"the public {ARCHIVE} has md5 {ARCHIVE_MD5}"
        ) from error
    if missing := [name for name in wanted if name not in seen]:
        raise BadData(f"{path}: no {', '.join(missing)} in it, but there should be {', '.join(wanted)}")


class _Capped:
    """A reader that refuses to go on after `LARGEST` bytes: a small file can unzip to any size."""

    def __init__(self, source: gzip.GzipFile, where: str) -> None:
        self._source = source
        self._where = where
        self._left = LARGEST

    def read(self, size: int) -> bytes:
        """`size` bytes, `EOFError` when there are fewer."""
        self._take(size)
        content = self._source.read(size)
        if len(content) < size:
            raise EOFError("it ends before its end mark")
        return content

    def skip(self, size: int) -> None:
        for start in range(0, size, _CHUNK):
            self.read(min(size - start, _CHUNK))

    def drain(self) -> None:
        """To the end, for gzip to compare its checksum with."""
        while content := self._source.read(_CHUNK):
            self._take(len(content))

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise BadData(f"{self._where}: should be at most {LARGEST} bytes unzipped; likely cause: not CIFAR-10")


def _padded(size: int) -> int:
    """Bytes of a file in an archive, which come in whole blocks."""
    return -(-size // _BLOCK) * _BLOCK


def _class_names(content: bytes, where: str) -> tuple[str, ...]:
    (names,) = _fields(content, where, b"label_names")
    good = isinstance(names, list) and all(isinstance(each, bytes) and each and each.isascii() for each in names)
    if not good or len(set(names)) != CLASSES or len(names) != CLASSES:
        raise BadData(f"{where}: label_names should be {CLASSES} different ASCII names; likely cause: not CIFAR-10")
    return tuple(each.decode("ascii") for each in names)


def _batch(content: bytes, where: str) -> Batch:
    data, labels = _fields(content, where, b"data", b"labels")
    if not isinstance(data, Array):
        raise BadData(f"{where}: data is a {type(data).__name__}, but should be an array")
    if data.dtype.code != b"u1":
        raise BadData(f"{where}: data.dtype={data.dtype.code.decode('latin-1')[:20]!r}, but should be 'u1' (uint8)")
    if len(data.shape) != 2 or data.shape[1] != ROW or data.shape[0] < 1:
        raise BadData(f"{where}: data.shape={str(data.shape)[:60]}, but should be (N, {ROW}) with N at least 1")
    rows = data.shape[0]
    if len(data.content) != rows * ROW:
        raise BadData(f"{where}: data has {len(data.content)} bytes, but {rows} rows of {ROW} take {rows * ROW}")
    if not isinstance(labels, list) or not all(type(each) is int for each in labels):
        raise BadData(f"{where}: labels should be a list of integers")
    if len(labels) != rows:
        raise BadData(f"{where}: {len(labels)} labels, but should be {rows}, one a row of data")
    for row, label in enumerate(labels):
        if not 0 <= label < CLASSES:
            raise BadData(f"{where}: labels[{row}]={label}, but should be in 0..{CLASSES - 1}")
    flat = np.frombuffer(data.content, dtype=np.uint8).reshape((rows, ROW), order="F" if data.fortran else "C")
    pixels = np.ascontiguousarray(flat.reshape(rows, 3, 32, 32).transpose(0, 2, 3, 1))
    return pixels, np.array(labels, dtype=np.int64)


def _fields(content: bytes, where: str, *keys: bytes) -> list[Any]:
    loaded = load(content, where)
    if not isinstance(loaded, dict):
        raise BadData(f"{where}: holds a {type(loaded).__name__}, but should hold a dictionary")
    for key in keys:
        if key not in loaded:
            raise BadData(f"{where}: no {key.decode()!r} in it; likely cause: not a CIFAR-10 file")
    return [loaded[key] for key in keys]
