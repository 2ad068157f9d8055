"""Writes data files that are crafted, damaged or careless; and, as a program, reads them as a user's would be.

As a program it takes a folder and the seconds a file may take, lowers its own limit of memory, reads the files that
``corpus.json`` names by their routes, and prints a JSON list of (name, what became of it, its line).
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar10_files
import numpy as np
from hostile_coco import coco_files
from hostile_images import IMAGES, png

JSON = ("coco", "report", "reference", "statistics", "ranges")
MEMORY = 1 << 30
"""Bytes of address space that reading may take, above what the program itself has."""
Corpus = dict[str, tuple[str, Path]]
"""By name: the route and the file."""
FINE = " that is fine"
"""Ends the name of a file that is to be read."""


class Runs:
    """Pickles to a command that writes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def corpus(root: Path) -> Corpus:
    """Written below `root`; nothing writes ``root / "canary"`` unless a file runs."""
    found: Corpus = {}
    (root / "images").mkdir()
    (root / "images" / "a.png").write_bytes(png(4, 4))

    def add(route: str, name: str, content: bytes | None = None) -> Path:
        path = root / f"{len(found):03}" / name.removesuffix(FINE)
        path.parent.mkdir(parents=True)
        if content is not None:
            path.write_bytes(content)
        found[f"{route}: {len(found):03} {name}"] = route, path
        return path

    for write in (_places, _archives, _pickles, _arrays, _images, _coco, _documents, _lists):
        write(add, root / "canary")
    return found


Add = Callable[..., Path]


def _places(add: Add, _: Path) -> None:
    """What is no file."""
    routes = [("inputs", "x.npy"), ("inputs", "x.npz"), ("inputs", "x.tar.gz"), ("image", "x.png"), ("list", "x.txt")]
    routes += [("moments", "x.npz"), *((route, "x.json") for route in JSON)]
    for route, name in routes:
        os.mkfifo(add(route, name))
        add(route, name).mkdir()
        for device in ("/dev/zero", "/dev/null", "/dev/tty"):
            add(route, name).symlink_to(device)
        path = add(route, name)
        path.symlink_to(path)
        with socket.socket(socket.AF_UNIX) as listening:
            here = Path.cwd()
            path = add(route, name)
            os.chdir(path.parent)  # the address of a socket is short
            listening.bind(name)
            os.chdir(here)
        for absent in ("absent", "a\0b", "n" * 300):
            add(route, absent + name[1:])
    for name in ("dir.png", "fifo.png"):
        folder = add("inputs", f"folder of {name}")
        folder.mkdir()
        (folder / name).mkdir() if name == "dir.png" else os.mkfifo(folder / name)
    for strange in (b"class \xff", b"class \x1b[31m", b"a\nb"):
        folder = add("inputs", os.fsdecode(b"folder of " + strange))
        (folder / os.fsdecode(strange)).mkdir(parents=True)
        (folder / os.fsdecode(strange) / "a.png").write_bytes(png(4, 4))
    add("inputs", "empty").mkdir()


def _archives(add: Add, _: Path) -> None:
    """CIFAR-10's .tar.gz."""

    def tar(*parts: tuple[str, bytes, int, bytes]) -> bytes:
        out = io.BytesIO()
        with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1, mtime=0) as zipped:
            for name, kind, size, content in parts:
                member = tarfile.TarInfo(name)
                member.type, member.size = kind, size
                zipped.write(member.tobuf(tarfile.GNU_FORMAT))
                for start in range(0, len(content), 1 << 20):
                    zipped.write(content[start : start + (1 << 20)])
                zipped.write(bytes(-len(content) % 512))
            zipped.write(bytes(1024))
        return out.getvalue()

    lists = b"\x80\x02" + b"]" * 60_000_000
    add("inputs", "lists.tar.gz", tar(("batches.meta", tarfile.REGTYPE, len(lists), lists)))
    value = bytes(64 << 20)
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
        record = b"%d path=" % (len(value) + 16) + value
        add("inputs", "header.tar.gz", tar(("long", kind, len(record), record)))
    add("inputs", "claims.tar.gz", tar(("batches.meta", tarfile.REGTYPE, 1 << 50, b"")))
    add("inputs", "negative.tar.gz", tar(("batches.meta", tarfile.REGTYPE, -512, b"")))
    add("inputs", "headers.tar.gz", tar(*[("x", tarfile.XHDTYPE, 0, b"")] * 2000))
    add("inputs", "zeros.tar.gz", gzip.compress(bytes(257 << 20), 1))
    add("inputs", "sparse.tar.gz", tar(("batches.meta", tarfile.GNUTYPE_SPARSE, 1 << 40, b"")))
    with tarfile.open(add("cifar", "good.tar.gz" + FINE), "w:gz") as archive:
        archive.add(cifar10_files.write(add("cifar", "good" + FINE)), "some/cifar-10-batches-py")
    add("inputs", "text.tar.gz", b"<html>404</html>")
    add("inputs", "empty.tar.gz", b"")


def _pickles(add: Add, canary: Path) -> None:
    """CIFAR-10's batches, one of which is crafted; those that test_cifar10.py has are not here again."""
    for content in (
        pickle.dumps({b"data": Runs(canary)}, 2),
        b"\x80\x02" + b"(" * 20_000_000,
        b"\x80\x02S" + b"\0" * 20_000_000 + b"\n.",
        b"\x80\x02I" + b"9" * 20_000_000 + b"\n.",
        b"\x80\x02\x8b" + struct.pack("<i", 20_000_000) + b"\x7f" * 20_000_000 + b".",
        b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"x" * 1000,
        b"\x80\x02c" + b"x" * 20_000_000 + b"\n" + b"y" * 20_000_000 + b"\n.",
    ):
        folder = add("inputs", "cifar-10-batches-py")
        cifar10_files.write(folder)
        (folder / "data_batch_2").write_bytes(content)
    folder = add("inputs", "with a pipe")
    cifar10_files.write(folder)
    (folder / "data_batch_2").unlink()
    os.mkfifo(folder / "data_batch_2")
    folder = add("inputs", "sparse")
    cifar10_files.write(folder)
    with (folder / "data_batch_2").open("wb") as file:
        file.truncate(1 << 40)


def _arrays(add: Add, canary: Path) -> None:
    def npy(descr: str, shape: str, content: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
        header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        size = len(header) if length is None else length
        return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size) + header + content

    def npz(content: bytes, how: int = zipfile.ZIP_STORED, name: str = "x.npy") -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", how) as archive:
            archive.writestr(name, content)
        return out.getvalue()

    strange = {
        "good": npy("'<f4'", "(2, 3)", bytes(24)),
        "terabytes": npy("'<f4'", "(1099511627776, 4)", bytes(64)),
        "no bytes": npy("'|S0'", f"({10**15},)"),
        "void": npy("'|V0'", f"({10**15},)"),
        "none of many": npy("'<f4'", f"(0, {10**30})"),
        "below 0": npy("'<f4'", "(-2, -2)", bytes(16)),
        "nested": npy("'<f4'", "(" * 4000 + ")" * 4000),
        "digits": npy("'<f4'", "(" + "9" * 5000 + ",)"),
        "hexadecimal": npy("'<f4'", "(0x" + "f" * 6000 + ",)"),
        "subarray": npy("('<f4', (1000000000,))", "(4,)", bytes(64)),
        "objects": npy("'|O'", "(1,)", pickle.dumps([Runs(canary)])),
        "text": npy("'<U4'", "(1,)", bytes(16)),
        "single": npy("'<f4'", "()", bytes(4)),
        "no rows": npy("'<f4'", "(0, 3)"),
        "fields": npy("[('a', '<f4'), ('b', '|O')]", "(1,)", bytes(16)),
        "wrong": npy("'<f4'", "'x'"),
        "a name": npy("'<f4'", f"__import__('os').system('touch {canary}')"),
        "no dtype": npy("'nothing'", "(1,)"),
        "version": npy("'<f4'", "(1,)", bytes(4), version=9),
        "nothing": b"",
        "cut": b"\x93NUMPY\x01",
    }
    for name, content in strange.items():
        add("inputs", f"{name}.npy" + FINE * (name == "good"), content)
        add("inputs", f"{name}.npz" + FINE * (name == "good"), npz(content))
        add("moments", f"{name}.npz", npz(content, name="names.npy"))
    long = npy("'<f4'", "(1,)", version=2, length=2**32 - 1)
    with add("inputs", "long header.npy", long).open("r+b") as file:
        file.truncate(5 << 30)
    add("inputs", "long header.npz", npz(long + bytes(64 << 20), zipfile.ZIP_DEFLATED))
    zeros = npy("'<f4'", f"({70 << 20},)", bytes(280 << 20))
    add("inputs", "zeros.npz", npz(zeros, zipfile.ZIP_DEFLATED))
    for how in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        content = bytearray(npz(npy("'<f4'", "(1,)", bytes(4)), how))
        if how == zipfile.ZIP_LZMA:
            at = content.index(b"\x5d\0")
            content[at + 1 : at + 5] = b"\xff" * 4  # a dictionary of 4 GB
        add("inputs", f"packing {how}.npz", bytes(content))
    locked = bytearray(npz(npy("'<f4'", "(1,)", bytes(4))))
    locked[6] |= 1
    locked[locked.rindex(b"PK\x01\x02") + 8] |= 1
    add("inputs", "locked.npz", bytes(locked))
    add("inputs", "a text.npz", npz(b"text", name="readme.txt"))
    add("inputs", "strange name.npz", npz(npy("'<f4'", "()", bytes(4)), name="[/a]\x1b\n.npy"))
    for name, arrays in {
        "lengths": {"x": np.zeros((3, 2)), "y": np.zeros((4, 2))},
        "labels": {"x": np.zeros((3, 2)), "labels": np.zeros(4, int)},
        "label": {"x": np.zeros((3, 2)), "labels": np.array(1)},
        "numbers": {"x": np.array(1.0), "y": np.array(1.0)},
        "targets alone": {"targets": np.zeros(3)},
    }.items():
        held = io.BytesIO()
        np.savez(held, **arrays)  # type: ignore[arg-type]
        add("inputs", f"{name}.npz", held.getvalue())
        folder = add("inputs", f"folder of {name}")
        folder.mkdir()
        (folder / "a.npz").write_bytes(held.getvalue())


def _images(add: Add, _: Path) -> None:
    for name, content in IMAGES.items():
        for route in ("image", "pillow"):
            add(route, name + FINE * name.startswith("good"), content)


def _coco(add: Add, _: Path) -> None:
    for name, content in coco_files().items():
        add("coco", f"instances.json{FINE * (name == 'good')}", content)


def _documents(add: Add, _: Path) -> None:
    """What JSON can say that no reader of it expects."""
    texts = [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"9" * 5000,
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
    ]
    texts += [
        b"[" * 900 + b"]" * 900,
        b'{"schema": "\\ud800"}',
        b'{"schema": "\\u001b[31m\\n"}',
        b'{"schema": ' + b"[" * 900 + b"]" * 900 + b"}",
    ]
    nested = b"[" * 900 + b"]" * 900
    for schema, keys in (
        ("ptq/1", ("environment", "results", "latency")),
        ("ptq-reference/1", ("cases", "environments")),
    ):
        for key in keys:
            for value in (
                nested,
                b"null",
                b"[null]",
                b'{"x": {}}',
                b'{"x": ' + nested + b"}",
                b'{"x": {"metric": NaN}}',
            ):
                texts.append(b'{"schema": "%s", "%s": %s}' % (schema.encode(), key.encode(), value))
    for key in ("data", "ptq_statistics"):
        for value in (
            nested,
            b"null",
            b'{"x": 1}',
            b'{"x": {"lowest": 1e999, "highest": 1}}',
            b'{"x": {"lowest": 2, "highest": 1}}',
        ):
            texts.append(b'{"%s": %s}' % (key.encode(), value))
    for route in JSON:
        for text in texts:
            add(route, "x.json", text)
    for text in (b"", b"text", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(100)):
        add("moments", "x.npz", text)


def _lists(add: Add, _: Path) -> None:
    path = add("list", "x.txt" + FINE, b"a.png\n")
    (path.parent / "a.png").touch()
    for text in (
        b"",
        b"\xff\n",
        b"/etc/passwd\n",
        b"../x.png\n",
        b"a\0b\n",
        b"n" * 300 + b"\n",
        b"n" * 5000 + b"\n",
        b"\x1b[31m\n",
        b"[/a]\n",
        b"\n" * 1000,
    ):
        add("list", "x.txt", text)


def routes() -> dict[str, Callable[[Path], object]]:
    """How a file is read; everything is imported here."""
    import cv2  # noqa: F401 - by reading an image

    from ptq.calibration.cache_file import load_ranges, load_statistics
    from ptq.calibration.patches import load_moments
    from ptq.data.cifar10 import read
    from ptq.data.coco import read_coco
    from ptq.data.image_files import read_list
    from ptq.data.inputs import read_inputs
    from ptq.data.letterbox import read_image
    from ptq.data.pictures import _with_pillow
    from ptq.gate.reference import load_references
    from ptq.report.json import load

    def inputs(path: Path) -> object:
        samples = read_inputs(path)
        return samples.digest, len(samples), samples.hashes(), samples.targets, list(samples.batches(8))

    def coco(path: Path) -> object:
        return read_coco(path.parent.parent / "images", path)

    return {
        "inputs": inputs, "cifar": lambda path: read(path, "test"), "coco": coco,
        "image": read_image, "pillow": _with_pillow,
        "list": lambda path: read_list(path, path.parent), "report": load, "reference": load_references,
        "statistics": load_statistics, "ranges": load_ranges, "moments": load_moments,
        # what the program itself is to see
        "greedy": lambda _: bytes(2 * MEMORY), "slow": lambda _: time.sleep(60), "wrong": lambda _: {}["x"],
        "runs": lambda path: pickle.loads(path.read_bytes()),  # noqa: S301
    }  # fmt: skip


class TooSlow(BaseException):
    """The alarm rang."""


def main(root: Path, seconds: float) -> None:
    ways = routes()
    from ptq.errors import PtqError

    def ring(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, ring)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    said = []
    for name, (route, path) in json.loads((root / "corpus.json").read_text()).items():
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            ways[route](Path(path))
            became = "answered", ""
        except PtqError as error:
            became = "refused", str(error)
        except BaseException as error:
            became = type(error).__name__, str(error)[:300]
        signal.setitimer(signal.ITIMER_REAL, 0)
        said.append((name, *became))
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
