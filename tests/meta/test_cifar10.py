"""The CIFAR-10 reader: reads what is genuine, names what is wrong, runs nothing."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import time
import tracemalloc
import warnings
from pathlib import Path

import cifar10_files as files
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.data import cifar10
from ptq.data.pickles import load
from ptq.errors import BadData, NoData


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return files.write(tmp_path_factory.mktemp("root") / "cifar-10-batches-py")


@pytest.fixture(scope="module")
def root(folder):
    return folder.parent


def refused(run) -> str:
    """The one line of the `BadData` that `run` raises."""
    with pytest.raises(BadData) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is genuine


def test_raw_rgb_planes_become_nhwc(tmp_path):
    data = np.zeros((1, 3072), dtype=np.uint8)
    data[0, 0 * 1024 + 5 * 32 + 7] = 11  # red, row 5, column 7
    data[0, 1 * 1024 + 5 * 32 + 7] = 22
    data[0, 2 * 1024 + 31 * 32 + 0] = 33
    (files.write(tmp_path) / "test_batch").write_bytes(files.dumps(files.batch(1, data=data, labels=[9])))
    images = cifar10.read(tmp_path, "test")
    assert images.pixels.shape == (1, 32, 32, 3)
    assert images.pixels.dtype == np.uint8
    assert images.pixels[0, 5, 7].tolist() == [11, 22, 0]
    assert images.pixels[0, 31, 0].tolist() == [0, 0, 33]
    assert images.inputs.dtype == np.float32
    assert images.inputs.max() == 33
    assert images.labels.tolist() == [9]
    assert images.labels.dtype == np.int64
    assert images.class_names[9] == "truck"


@pytest.mark.parametrize("rows", [1, 2, 300])
def test_batches_of_any_size_in_order(tmp_path, rows):
    images = cifar10.read(files.write(tmp_path, rows), "train")
    assert len(images) == len(images.labels) == 5 * rows
    expected = np.concatenate([files.batch(rows, seed)[b"labels"] for seed in range(5)])
    assert images.labels.tolist() == expected.tolist()
    last = files.batch(rows, 4)[b"data"][-1].reshape(3, 32, 32)
    assert np.array_equal(images.pixels[-1].transpose(2, 0, 1), last)


def test_folder_root_and_archive_are_one_data_set(root, folder, tmp_path):
    archive = files.pack(folder, tmp_path / "cifar-10-python.tar.gz", order=lambda paths: sorted(paths, reverse=True))
    before = sorted(tmp_path.iterdir())
    for split in ("train", "test"):
        expected = cifar10.read(folder, split)
        for source in (root, archive, tmp_path):
            images = cifar10.read(source, split)
            assert np.array_equal(images.pixels, expected.pixels)
            assert np.array_equal(images.labels, expected.labels)
            assert images.class_names == expected.class_names
    assert sorted(tmp_path.iterdir()) == before  # nothing extracted


def test_array_in_column_order(tmp_path):
    data = files.batch(3)[b"data"]
    content = files.dumps(files.batch(3, data=files.Raw((3, 3072), b"u1", b"|", data.tobytes(order="F"))))
    at = content.index(b"tb\x89T") + 2
    (files.write(tmp_path) / "test_batch").write_bytes(content[:at] + b"\x88" + content[at + 1 :])
    images = cifar10.read(tmp_path, "test")
    assert np.array_equal(images.pixels.transpose(0, 3, 1, 2).reshape(3, 3072), data)


@pytest.mark.skipif(not os.environ.get("PTQ_DATA"), reason="PTQ_DATA is not set")
def test_genuine_rows_agree_with_pickle():
    root = Path(os.environ["PTQ_DATA"])
    if not (root / cifar10.FOLDER).is_dir():
        pytest.skip(f"no {cifar10.FOLDER} in PTQ_DATA")
    images = cifar10.read(root, "test")
    with (root / cifar10.FOLDER / "test_batch").open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = pickle.load(file, encoding="bytes")  # noqa: S301
    assert np.array_equal(images.pixels.transpose(0, 3, 1, 2).reshape(-1, 3072), plain[b"data"])
    assert images.labels.tolist() == plain[b"labels"]


# --- what is wrong

ZEROS = np.zeros((3, 3072), dtype=np.uint8)
WRONG = {
    "shape": ({"data": np.zeros((3, 1024), np.uint8)}, r"data\.shape=\(3, 1024\), but should be \(N, 3072\)"),
    "flat": ({"data": np.zeros(3072, np.uint8)}, r"data\.shape=\(3072,\)"),
    "no rows": ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, r"data\.shape=\(0, 3072\)"),
    "dtype": ({"data": ZEROS.astype(np.float32)}, r"data\.dtype='f4', but should be 'u1'"),
    "signed": ({"data": ZEROS.astype(np.int8)}, r"data\.dtype='i1'"),
    "label 10": ({"labels": [0, 10, 1]}, r"labels\[1\]=10, but should be in 0\.\.9"),
    "label -1": ({"labels": [0, 1, -1]}, r"labels\[2\]=-1"),
    "labels short": ({"labels": [0, 1]}, r"2 labels, but should be 3"),
    "labels text": ({"labels": [0, 1, b"cat"]}, "labels should be a list of integers"),
    "labels bool": ({"labels": [0, 1, True]}, "labels should be a list of integers"),
    "labels array": ({"labels": np.zeros(3, np.uint8)}, "labels should be a list of integers"),
    "no labels": ({"labels": None}, "no 'labels' in it"),
    "no data": ({"data": None}, "no 'data' in it"),
    "data text": ({"data": b"x" * 3072}, "data is a bytes, but should be an array"),
    "huge claim": ({"data": files.Raw((2**31 - 1, 3072), b"u1", b"|", b"")}, "data has 0 bytes, but 2147483647 rows"),
    "negative claim": ({"data": files.Raw((-1, 3072), b"u1", b"|", b"")}, r"data\.shape=\(-1, 3072\)"),
    "short content": ({"data": files.Raw((3, 3072), b"u1", b"|", b"x" * 100)}, "data has 100 bytes, but 3 rows"),
    "objects": ({"data": files.Raw((3, 3072), b"O8", b"|", [1])}, "a state other than that of an array of numbers"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_batch_names_file_and_fact(tmp_path, what):
    changes, fact = WRONG[what]
    files.write(tmp_path, **changes)
    with pytest.raises(BadData, match=fact) as caught:
        cifar10.read(tmp_path, "train")
    assert str(tmp_path / "data_batch_3") in str(caught.value)
    assert cifar10.read(tmp_path, "test").labels.size == 3  # the other split does not mind


def test_absent_data_set_says_what_to_get(tmp_path):
    for source in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NoData, match=r"there should be cifar-10-batches-py/ or cifar-10-python\.tar\.gz; get it"):
            cifar10.read(source, "test")


@pytest.mark.parametrize("name", ["batches.meta", "data_batch_4"])
def test_missing_file(tmp_path, name):
    (files.write(tmp_path / "batches") / name).unlink()
    assert f"{name}: no such file" in refused(lambda: cifar10.read(tmp_path / "batches", "train"))
    archive = files.pack(tmp_path / "batches", tmp_path / "some.tar.gz")
    assert f"no {name} in it" in refused(lambda: cifar10.read(archive, "train"))


@pytest.mark.parametrize(
    "names", [None, [b"a"], [b"same"] * 10, [b"", *files.NAMES[1:]], [1] * 10, [b"\xff", *files.NAMES[1:]]]
)
def test_wrong_meta(tmp_path, names):
    meta = {b"num_vis": 3072} if names is None else {b"label_names": names}
    (files.write(tmp_path) / "batches.meta").write_bytes(files.dumps(meta))
    assert "batches.meta: " in refused(lambda: cifar10.read(tmp_path, "test"))


def test_truncated_file(tmp_path):
    path = files.write(tmp_path) / "test_batch"
    whole = path.read_bytes()
    for size in (0, 1, 2, 50, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "test_batch: not a whole pickle" in refused(lambda: cifar10.read(tmp_path, "test"))
    path.write_bytes(whole + b"x")
    assert "1 bytes after its end" in refused(lambda: cifar10.read(tmp_path, "test"))


def test_too_large_file(tmp_path, monkeypatch):
    files.write(tmp_path)
    monkeypatch.setattr(cifar10, "LARGEST", 5000)
    assert "but should have at most 4," in refused(lambda: cifar10.read(tmp_path, "test"))


def test_truncated_and_damaged_archive(folder, tmp_path):
    archive = files.pack(folder, tmp_path / "cifar-10-python.tar.gz")
    whole = archive.read_bytes()
    damaged = bytearray(whole)
    damaged[-6] ^= 0xFF  # the length gzip keeps at the end
    flipped = bytearray(whole)
    flipped[-8] ^= 0xFF  # the checksum
    for content in (b"", b"not gzip", whole[: len(whole) // 2], whole[:-4], bytes(damaged), bytes(flipped)):
        archive.write_bytes(content)
        assert "not a whole .tar.gz" in refused(lambda: cifar10.read(archive, "train"))


def test_archive_with_a_second_batch_or_a_link(folder, tmp_path):
    archive = tmp_path / "twice.tar.gz"
    files.pack(folder, archive, order=lambda paths: 2 * sorted(paths))
    assert "a second " in refused(lambda: cifar10.read(archive, "test"))
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert "no batches.meta, test_batch in it" in refused(lambda: cifar10.read(archive, "test"))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_archive_that_unzips_to_more_than_the_memory(tmp_path, monkeypatch, kind):
    archive = tmp_path / "bomb.tar.gz"
    member = tarfile.TarInfo("test_batch" if kind == tarfile.REGTYPE else "header")
    member.type, member.size = kind, 1 << 40
    with gzip.open(archive, "wb") as zipped:
        zipped.write(member.tobuf(tarfile.GNU_FORMAT))
        zipped.write(bytes(8 << 20))
    monkeypatch.setattr(cifar10, "LARGEST", 4 << 20)
    assert "should be at most" in refused(lambda: cifar10.read(archive, "test"))


# --- what is crafted


class Call:
    """Pickles to a call of `function`."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["batches.meta", "test_batch"])
def test_a_pickle_that_runs_a_command_is_refused_and_runs_nothing(tmp_path, protocol, name):
    proof = tmp_path / "ran"
    path = files.write(tmp_path) / name
    attack = pickle.dumps({b"data": Call(os.system, f"touch {proof}"), b"labels": [0]}, protocol)
    path.write_bytes(attack)
    assert f"{name}: the pickle has" in refused(lambda: cifar10.read(tmp_path, "test"))
    assert not proof.exists()
    pickle.loads(attack)  # noqa: S301 - the attack is real: without the reader it runs
    assert proof.exists()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n"
CRAFTED = {
    "os.system": b"cos\nsystem\n(U\x02idtR.",
    "builtins.eval": b"c__builtin__\neval\n(U\x011tR.",
    "getattr": b"c__builtin__\ngetattr\n(" + NDARRAY + b"U\x06tofiletR.",
    "dotted name": b"cnumpy\nndarray.tofile\n.",
    "other numpy global": b"cnumpy\nload\n(U\x01xtR.",
    "numpy 2 name": b"cnumpy._core.multiarray\n_reconstruct\n.",
    "inst": b"(U\x02idios\nsystem\n.",
    "obj": b"(" + NDARRAY + b"K\x01o.",
    "newobj": NDARRAY + b"(K\xfft\x81.",
    "stack global": b"\x8c\x02os\x8c\x06system\x93.",
    "extension": b"\x82\x01.",
    "persistent id": b"Pid\n.",
    "call ndarray": NDARRAY + b"(J\xff\xff\xff\x7ftR.",
    "reconstruct of dtype": RECONSTRUCT + b"(" + DTYPE + b"(K\x00tU\x01btR.",
    "reconstruct of shape": RECONSTRUCT + b"(" + NDARRAY + b"(J\xff\xff\xff\x7ftU\x01btR.",
    "dtype with align": DTYPE + b"(U\x02u1K\x01K\x01tR.",
    "dtype of a list": DTYPE + b"(](U\x01aU\x01OeK\x00K\x01tR.",
    "dtype with metadata": DTYPE + b"(U\x02u1K\x00K\x01tR(K\x04U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00}tb.",
    "dtype with fields": DTYPE
    + b"(U\x02V8K\x00K\x01tR(K\x03U\x01|N(U\x01atN J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
    "dtype built twice": DTYPE
    + b"(U\x02u1K\x00K\x01tR"
    + 2 * b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    + b".",
    "build on a global": RECONSTRUCT + b"}U\x0c__defaults__NsNb.",
    "build on a dict": b"}}b.",
    "array of an unbuilt dtype": RECONSTRUCT
    + b"("
    + NDARRAY
    + b"(K\x00tU\x01btR(K\x01(K\x01t"
    + DTYPE
    + b"(U\x02u1K\x00K\x01tR\x89U\x00tb.",
    "memo hole": b"h\x05.",
    "long string claim": b"T\xff\xff\xff\x7fx.",
    "negative string": b"T\xff\xff\xff\xffx.",
    "eight-byte claim": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "deep key": b"}" + b"N" + b"\x85" * 300_000 + b"Ns.",
    "deep dtype": DTYPE + b"N" + b"\x85" * 300_000 + b"R.",
    "list into itself": b"]q\x00h\x00a(h\x00e",
    "odd dictionary": b"}(U\x01au.",
    "two objects": b"NN.",
    "open mark": b"(N.",
    "pop nothing": b"\x87.",
    "append to an integer": b"K\x01K\x02a.",
    "not a pickle": b"<html>404</html>",
}


@pytest.mark.parametrize("what", CRAFTED)
def test_crafted_pickles_are_refused(what):
    start = time.process_time()
    fact = refused(lambda: load(b"\x80\x02" + CRAFTED[what], "evil"))
    assert fact.startswith("evil: ")
    assert len(fact) < 400
    assert time.process_time() - start < 10


def test_a_memo_index_claims_no_memory():
    content = b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b"."
    tracemalloc.start()
    try:
        assert load(content, "memo") is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # pickle.Unpickler would claim 64 GB here
    finally:
        tracemalloc.stop()


GENUINE = files.dumps(files.batch(1))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_pickles_raise_nothing_but_bad_data(data):
    """Any damage is either harmless or `BadData`; never another exception, never a warning."""
    content = bytearray(GENUINE)
    header = content.index(b"T") + 5
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, header), st.integers(0, len(content) - 1)))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=6))
    try:
        pixels, labels = cifar10._batch(bytes(content), "mutated")
    except BadData as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert pixels.shape == (len(labels), 32, 32, 3)
        assert labels.min() >= 0
        assert labels.max() <= 9


PARTS = [RECONSTRUCT, NDARRAY, DTYPE, b"K\x00", b"K\x01", b"U\x01b", b"U\x02u1", b"q\x00", b"h\x00", b"U\x04data"]
PARTS += [bytes([each]) for each in b"(t]}N\x88\x89\x85\x86\x87Rbaesu02"]
PARTS += [b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb", b"r" + struct.pack("<I", 2**31 - 1)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=40))
def test_any_sequence_of_opcodes_is_read_or_refused(parts):
    try:
        load(b"\x80\x02" + b"".join(parts) + b".", "any")
    except BadData as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_archive_members_are_read_by_the_same_unpickler(folder, tmp_path):
    proof = tmp_path / "ran"
    content = pickle.dumps({b"data": Call(os.system, f"touch {proof}")}, 2)
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("batches.meta", "test_batch"):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert "global" in refused(lambda: cifar10.read(archive, "test"))
    assert not proof.exists()
