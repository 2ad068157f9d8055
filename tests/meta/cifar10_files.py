"""Writes CIFAR-10 files as Python 2's cPickle wrote the public ones: protocol 2, memo entries and all."""

import io
import struct
import tarfile
from pathlib import Path

import numpy as np

NAMES = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
TRAIN = [f"data_batch_{number}" for number in range(1, 6)]
ROW = 3072


class Pickler:
    """Enough of cPickle for dict, list, bytes, int, None, bool, tuple of up to 8 and arrays."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.memo = 0

    def put(self) -> None:
        self.out += b"q" + bytes([self.memo]) if self.memo < 256 else b"r" + struct.pack("<I", self.memo)
        self.memo += 1

    def save(self, value) -> None:
        match value:
            case None | bool():
                self.out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
            case int():
                self.out += b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)
            case bytes():
                short = len(value) < 256
                self.out += (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value
                self.put()
            case list():
                self.out += b"]"
                self.put()
                self.many(value, b"a", b"e")
            case tuple():
                self.out += b"(" if len(value) > 3 else b""
                for each in value:
                    self.save(each)
                self.out += b"t" if len(value) > 3 else bytes([0x84 + len(value)])
                self.put()
            case dict():
                self.out += b"}"
                self.put()
                self.many([part for pair in value.items() for part in pair], b"s", b"u", width=2)
            case np.ndarray():
                self.array(value.shape, value.dtype.str[1:].encode(), value.dtype.str[:1].encode(), value.tobytes())
            case Raw():
                self.array(*value.claim)
            case _:
                raise TypeError(value)

    def many(self, parts, one, several, width=1) -> None:
        """Parts as cPickle batches them: one by its own opcode, more between a mark and another."""
        if not parts:
            return
        single = len(parts) == width
        self.out += b"" if single else b"("
        for each in parts:
            self.save(each)
        self.out += one if single else several

    def array(self, shape, code, order, content) -> None:
        self.out += b"cnumpy.core.multiarray\n_reconstruct\n"
        self.put()
        self.out += b"cnumpy\nndarray\n"
        self.put()
        self.save((0,))
        self.save(b"b")
        self.out += b"\x87"
        self.put()
        self.out += b"R"
        self.put()
        self.out += b"(K\x01"
        self.save(shape)
        self.out += b"cnumpy\ndtype\n"
        self.put()
        self.save(code)
        self.out += b"K\x00K\x01\x87"
        self.put()
        self.out += b"R"
        self.put()
        self.out += b"(K\x03"
        self.save(order)
        self.out += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        self.save(content)
        self.out += b"tb"


class Raw:
    """An array as a pickle may claim it: (shape, dtype code, byte order, content), true or not."""

    def __init__(self, shape, code, order, content) -> None:
        self.claim = (shape, code, order, content)


def dumps(value) -> bytes:
    pickler = Pickler()
    pickler.save(value)
    return bytes(pickler.out) + b"."


def batch(rows: int, seed: int = 0, **changes) -> dict:
    """What a batch holds, with `changes` to its keys; a key changed to None is left out."""
    generator = np.random.default_rng(seed)
    value = {
        b"batch_label": b"training batch 1 of 5",
        b"labels": [int(each) for each in generator.integers(0, 10, rows)],
        b"data": generator.integers(0, 256, (rows, ROW), dtype=np.uint8),
        b"filenames": [b"a_%d.png" % row for row in range(rows)],
    }
    value.update({key.encode(): change for key, change in changes.items()})
    return {key: each for key, each in value.items() if each is not None}


def write(folder: Path, rows: int = 3, **changes) -> Path:
    """A whole data set of `rows` a batch in `folder`; `changes` are made to data_batch_3."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = {b"num_cases_per_batch": 10000, b"label_names": NAMES, b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(dumps(meta))
    for seed, name in enumerate([*TRAIN, "test_batch"]):
        value = batch(rows, seed, **changes) if name == "data_batch_3" else batch(rows, seed)
        (folder / name).write_bytes(dumps(value))
    return folder


def pack(folder: Path, archive: Path, order=sorted) -> Path:
    """The folder as a .tar.gz like the public one."""
    with tarfile.open(archive, "w:gz") as tar:
        for path in order(folder.iterdir()):
            content = path.read_bytes()
            member = tarfile.TarInfo(f"cifar-10-batches-py/{path.name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive
