"""ImageFiles: image files on disk as a stream of letterboxed network inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ptq.data.content import read_bytes, size_of_file
from ptq.data.letterbox import TRAINED, Letterbox, Recipe, read_image
from ptq.data.samples import Float32
from ptq.errors import BadData, NoData, one_line
from ptq.files import file_digest, write_text

LARGEST_LIST = 64 << 20
"""Bytes of a list of images: a million paths."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """`Samples` over image files, decoded anew on every pass: memory does not grow with their number.

    Parameters
    ----------
    paths: the files, in order.
    size: side of the square network input in pixels.
    seed: what the files were drawn with, None when they were given.
    class_names: names by index; empty when unknown.
    recipe: order and range of the pixels, and where an image lies in the square.

    `batches` gives float32 (n, 3, size, size), by default RGB in [0, 1]. `hashes` and `digest` are over the files'
    bytes, so that they cost no decoding. Raises `BadData` when there is no file, or for a file that is no image.
    """

    paths: tuple[Path, ...]
    size: int = 640
    seed: int | None = None
    class_names: tuple[str, ...] = ()
    recipe: Recipe = TRAINED

    def __post_init__(self) -> None:
        if not self.paths:
            raise BadData("0 image files, but there should be at least 1")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def targets(self) -> Any:
        """None: nothing is known of what the images show."""
        return None

    @property
    def order(self) -> None:
        """Images come in their own order."""
        return None

    def batches(self, size: int) -> Iterator[Float32]:
        for start in range(0, len(self.paths), size):
            yield np.stack([self.read(index) for index in range(start, min(start + size, len(self.paths)))])

    def read(self, index: int) -> Float32:
        """Input number `index`: float32 (3, size, size)."""
        image = read_image(self.paths[index])
        box = Letterbox(image.shape[1], image.shape[0], self.size, self.recipe.centred)
        return self.recipe.network_input(box.apply(image))

    def hashes(self) -> tuple[str, ...]:
        return self._hashes

    @cached_property
    def digest(self) -> str:
        whole = hashlib.sha256(f"{self.recipe}; {self.size}".encode())
        for each in self._hashes:
            whole.update(bytes.fromhex(each))
        return whole.hexdigest()

    @cached_property
    def _hashes(self) -> tuple[str, ...]:
        return tuple(map(_digest, self.paths))


def _digest(path: Path) -> str:
    try:
        size_of_file(path)  # a pipe would wait for ever
        return file_digest(path)
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror}), but should be an image") from error


def list_images(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder (not of those below it), sorted by name; `NoData` when there is none."""
    if not folder.is_dir():
        raise NoData(f"{folder}: no such folder, but should hold images")
    found = tuple(each for each in entries(folder) if each.suffix.lower() in SUFFIXES)
    if not found:
        raise NoData(f"{folder}: 0 images, but should hold files ending in {', '.join(SUFFIXES)}")
    return found


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted by name; `BadData` for one that cannot be looked into."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise BadData(f"{folder}: cannot be read ({error.strerror}), but should be a folder") from error


def sample(paths: Sequence[Path], count: int, seed: int) -> tuple[Path, ...]:
    """`count` of `paths` without repetition, drawn with a generator of its own; `BadData` when there are fewer."""
    if not 1 <= count <= len(paths):
        where = f"{paths[0].parent}: " if paths else ""
        raise BadData(f"{where}{len(paths)} images, but {count} should be drawn: draw from 1 to {len(paths)}")
    chosen = np.random.default_rng(seed).choice(len(paths), size=count, replace=False)
    return tuple(paths[index] for index in chosen)


def write_list(list_path: Path, paths: Sequence[Path], root: Path) -> None:
    """Write `paths` one a line, relative to `root` with forward slashes: the same list works on another machine."""
    lines = []
    for path in paths:
        try:
            line = path.resolve().relative_to(root.resolve()).as_posix()
        except ValueError:
            raise BadData(f"{path}: not below the data root {root}, but a list holds paths relative to it") from None
        if line != line.strip() or not line.isprintable():
            raise BadData(f"{line!r}: a list holds a path a line, of printable characters: rename the file")
        lines.append(line)
    write_text(list_path, "".join(f"{line}\n" for line in lines))


def read_list(list_path: Path, root: Path) -> tuple[Path, ...]:
    """The files a list names, in its order.

    Raises `BadData`, naming list and line, for a path that is absolute, leaves the root, is absent or comes twice.
    """
    try:
        text = read_bytes(list_path, LARGEST_LIST).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(
            f"{list_path}: cannot be read as a list of images, one path a line ({one_line(error)})"
        ) from error
    found: dict[Path, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not (name := line.strip()):
            continue
        where = f"{list_path}:{number}: {name[:300]!r}"
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadData(f"{where} should be relative to the data root and stay below it")
        path = root / name
        if path in found:
            raise BadData(f"{where} is on line {found[path]} already, but an image should be listed once")
        if not _is_file(path):
            raise BadData(f"{where} is not below {root}: is it the data root the list was made for?")
        found[path] = number
    if not found:
        raise BadData(f"{list_path}: 0 paths, but should list images, one a line")
    return tuple(found)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for one
        return False
