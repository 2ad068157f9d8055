"""Inputs: everything a user may name or hand over, and one line with the remedy for what cannot be used."""

from __future__ import annotations

import io
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cifar10_files import write as write_cifar

from ptq.data import array_files
from ptq.data.array_files import read_array, read_arrays
from ptq.data.batch import joined
from ptq.data.inputs import read_inputs, samples_of, with_targets
from ptq.data.pictures import ImageOptions
from ptq.data.samples import ArraySamples, FittedSamples, labels_of
from ptq.data.signature import Signature, Tensor
from ptq.errors import NotInstalled, PtqError

FLOATS = Signature((Tensor("x", (None, 4), "float32"),), ())
IMAGE = Signature((Tensor("x", (None, 8, 8, 3), "float32"),), ())
WORDS = Signature(tuple(Tensor(name, (None, None), "int64") for name in ("ids", "mask", "kinds")), ())
ROWS = np.arange(40, dtype=np.float32).reshape(10, 4)
SENTENCES = [{name: np.arange(length) + at for at, name in enumerate(("ids", "mask", "kinds"))} for length in (3, 5, 3)]


def all_of(samples: Any, signature: Signature, size: int = 4) -> dict[str, np.ndarray]:
    """What a model is given, in the order of the samples."""
    batches = list(FittedSamples(samples, signature, "inputs").batches(size))
    assert all(len(next(iter(batch.values()))) <= size for batch in batches)
    return joined(batches)


def write_image(path: Path, height: int = 8, width: int = 8, colour: tuple[int, int, int] = (200, 100, 50)) -> None:
    """A plain image of one RGB colour, as PNG."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), colour[::-1], np.uint8))


def test_npy_is_mapped_and_npz_brings_the_truth(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    np.savez(tmp_path / "x.npz", x=ROWS, labels=np.arange(10))
    np.savez(tmp_path / "one.npz", whatever=ROWS)
    from_npy, from_npz = (read_inputs(tmp_path / name, signature=FLOATS) for name in ("x.npy", "x.npz"))
    assert isinstance(read_array(tmp_path / "x.npy"), np.memmap)
    for samples in (from_npy, from_npz, read_inputs(tmp_path / "one.npz", signature=FLOATS)):
        np.testing.assert_array_equal(all_of(samples, FLOATS)["x"], ROWS)
    assert labels_of(from_npy) is None
    np.testing.assert_array_equal(labels_of(from_npz), np.arange(10))


def test_an_input_called_labels_is_an_input(tmp_path: Path) -> None:
    takes = Signature((Tensor("labels", (None, 4), "float32"),), ())
    np.savez(tmp_path / "x.npz", labels=ROWS)
    samples = read_inputs(tmp_path / "x.npz", signature=takes)
    assert samples.targets is None
    np.testing.assert_array_equal(all_of(samples, takes)["labels"], ROWS)


def test_a_folder_of_npz_holds_batches_or_samples_and_none_is_padded(tmp_path: Path) -> None:
    for number, sentence in enumerate(SENTENCES):
        np.savez(tmp_path / f"{number}.npz", targets=number, **sentence)
    samples = read_inputs(tmp_path, signature=WORDS)
    assert len(samples) == 3
    np.testing.assert_array_equal(samples.targets, [0, 1, 2])
    shapes = [batch["ids"].shape for batch in FittedSamples(samples, WORDS, "s").batches(4)]
    assert shapes == [(1, 3), (1, 5), (1, 3)]
    for number in range(3):
        np.savez(
            tmp_path / f"{number}.npz", **{name: values[None].repeat(3, 0) for name, values in SENTENCES[0].items()}
        )
    batches = read_inputs(tmp_path, signature=WORDS)
    assert [len(batch["ids"]) for batch in batches.batches(4)] == [3, 3, 3]
    assert [len(batch["ids"]) for batch in batches.batches(6)] == [6, 3]
    assert [len(batch["ids"]) for batch in batches.batches(2)] == [2, 1, 2, 1, 2, 1]


def test_equal_samples_are_known_by_equal_hashes_however_they_come(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "d").mkdir()
    np.savez(tmp_path / "d" / "a.npz", x=ROWS[:7])
    np.savez(tmp_path / "d" / "b.npz", x=ROWS[7:])
    given = [read_inputs(tmp_path / name, signature=FLOATS) for name in ("x.npy", "d")]
    given += [samples_of(value, FLOATS) for value in (ROWS, {"x": ROWS}, [ROWS[:5], ROWS[5:]], list(ROWS))]
    assert len({samples.hashes() for samples in given}) == 1
    assert given[1].digest == read_inputs(tmp_path / "d", signature=FLOATS).digest
    np.savez(tmp_path / "d" / "b.npz", x=ROWS[7:] + 1)
    assert given[1].digest != read_inputs(tmp_path / "d", signature=FLOATS).digest


def test_images_become_what_the_options_say(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    plain = [200, 100, 50]
    for options, want in (
        (ImageOptions(), np.array(plain) / 255),
        (ImageOptions(range="0..255"), plain),
        (ImageOptions(range="-1..1"), np.array(plain) / 127.5 - 1),
        (ImageOptions(range="0..255", order="BGR"), plain[::-1]),
        (ImageOptions(range="0..255", mean=(100, 50, 0), std=(2, 5, 10)), (50, 10, 5)),
        (ImageOptions(size=(8, 8), range="0..255"), plain),
    ):
        pixels = all_of(read_inputs(tmp_path, options, IMAGE), IMAGE)["x"]
        assert pixels.shape == (1, 8, 8, 3)
        np.testing.assert_allclose(pixels[0, 3, 3], want, rtol=1e-5)
    channels_first = Signature((Tensor("x", (None, 3, 8, 8), "float32"),), ())
    np.testing.assert_allclose(
        all_of(read_inputs(tmp_path, ImageOptions(range="0..255", mean=(100, 50, 0)), channels_first), channels_first)[
            "x"
        ][0, :, 0, 0],
        (100, 50, 50),
    )
    grey = Signature((Tensor("x", (None, 8, 8, 1), "uint8"),), ())
    grey_pixels = all_of(read_inputs(tmp_path, ImageOptions(range="0..255"), grey), grey)["x"]
    assert (grey_pixels.dtype, grey_pixels[0, 0, 0, 0]) == (np.uint8, 124)


def test_a_folder_of_classes_gives_targets_and_other_options_another_digest(tmp_path: Path) -> None:
    for name, count in (("cat", 2), ("ant", 1)):
        for number in range(count):
            write_image(tmp_path / name / f"{number}.png", colour=(number, 0, 0))
    samples = read_inputs(tmp_path, signature=IMAGE)
    assert samples.class_names == ("ant", "cat")
    np.testing.assert_array_equal(labels_of(samples), [0, 1, 1])
    assert samples.digest == read_inputs(tmp_path, signature=IMAGE).digest
    assert samples.digest != read_inputs(tmp_path, ImageOptions(range="0..255"), IMAGE).digest


def test_pillow_reads_what_opencv_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    write_image(tmp_path / "a.png", 16, 16)
    options = ImageOptions(size=(8, 8), range="0..255")
    want = all_of(read_inputs(tmp_path, options, IMAGE), IMAGE)["x"]
    monkeypatch.setitem(sys.modules, "cv2", None)
    np.testing.assert_array_equal(all_of(read_inputs(tmp_path, options, IMAGE), IMAGE)["x"], want)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(NotInstalled, match=r"OpenCV or Pillow: pip install 'ptq\[coco\]'"):
        read_inputs(tmp_path, options, IMAGE)


def test_a_function_in_a_file_gives_whatever_python_may(tmp_path: Path) -> None:
    (tmp_path / "given.py").write_text(
        "import numpy as np\n"
        "ROWS = np.arange(40, dtype=np.float32).reshape(10, 4)\n"
        "def array(): return ROWS\n"
        "def pair(): return ROWS, np.arange(10)\n"
        "def mapping(): return {'x': ROWS, 'targets': np.arange(10)}\n"
        "def generator():\n    yield ROWS[:4]\n    yield ROWS[4:]\n"
        "def bad():\n    raise KeyError('nothing\\nhere')\n"
        "def late():\n    yield ROWS[:4]\n    raise OSError('gone')\n"
        "constant = 7\n"
    )
    for name in ("array", "pair", "mapping", "generator"):
        samples = read_inputs(f"{tmp_path}/given.py:{name}", signature=FLOATS)
        np.testing.assert_array_equal(all_of(samples, FLOATS)["x"], ROWS)
        np.testing.assert_array_equal(all_of(samples, FLOATS)["x"], ROWS, "a second time")
        assert (samples.targets is None) == (name in ("array", "generator"))
    for name, line in (
        ("bad", "given.py:bad, line 10: KeyError: 'nothing"),
        ("late", "given.py:late, line 13: OSError: gone"),
        ("constant", "a int, but should be a function"),
        ("absent", "given.py has no 'absent'"),
    ):
        one_line(lambda name=name: read_inputs(f"{tmp_path}/given.py:{name}", signature=FLOATS), line)


def test_cifar_is_drawn_to_calibrate_and_whole_to_evaluate(tmp_path: Path) -> None:
    data = write_cifar(tmp_path / "data", rows=300)
    assert len(read_inputs(data, split="test")) == 300
    drawn = read_inputs(data)
    assert (len(drawn), drawn.seed) == (1000, 42)


def test_sentences_are_lists_of_mappings_or_mappings_of_lists() -> None:
    columns = {name: [sentence[name] for sentence in SENTENCES] for name in SENTENCES[0]}
    for given in (SENTENCES, columns, (columns, [1, 2, 3])):
        samples = samples_of(given, WORDS)
        assert len(samples) == 3
        assert samples.order.tolist() == [0, 2, 1], "samples of one length are run together"
        shapes = [batch["ids"].shape for batch in FittedSamples(samples, WORDS, "s").batches(4)]
        assert shapes == [(2, 3), (1, 5)]


class Loader:
    """What a framework's loader is: it can be iterated again, and gives pairs of its own tensors."""

    def __init__(self, shuffle: bool = False) -> None:
        self.generator = np.random.default_rng(0) if shuffle else None

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        order = np.arange(10) if self.generator is None else self.generator.permutation(10)
        for start in range(0, 10, 3):
            chosen = order[start : start + 3]
            yield [ROWS[chosen], chosen]


def test_a_loader_is_iterated_again_and_one_that_shuffles_is_refused() -> None:
    samples = samples_of(Loader(), FLOATS)
    np.testing.assert_array_equal(all_of(samples, FLOATS)["x"], ROWS)
    np.testing.assert_array_equal(samples.targets, np.arange(10))
    one_line(lambda: all_of(samples_of(Loader(shuffle=True), FLOATS), FLOATS), "likely cause: shuffle=True")


def test_targets_given_apart_count_in_the_digest() -> None:
    samples = ArraySamples(ROWS)
    first, second = (with_targets(samples, np.arange(10) + more) for more in (0, 1))
    assert len({samples.digest, first.digest, second.digest}) == 3
    assert first.hashes() == samples.hashes()
    assert len(list(first.batches(5))) == 2
    one_line(lambda: with_targets(samples, np.arange(9)), "9 targets for 10 samples")


def test_what_cannot_be_an_input_is_one_line() -> None:
    for value, line in (
        ((row for row in ROWS), "a generator can be read only once"),
        (iter([ROWS]), "can be read only once"),
        (7, "int, but should be an array"),
        (np.float32(7), "a single number"),
        ({"y": ROWS, "z": ROWS}, "no input 'x' among 'y', 'z'"),
        ({"x": ROWS[:, :3]}, "shape (1, 3)"),
        (ROWS[0], "one sample without a batch dimension"),
        (ROWS.astype(str), "should be an array of numbers"),
        ({"x": ROWS, "targets": [1]}, "1 targets, but there should be 10"),
        ([], "0 samples"),
        (ROWS[:0], "0 samples"),
        ([[1, 2], [3]], "shape (1, 1)"),
        ([object()], "should be an array of numbers"),
        ([ROWS[:4], {"x": ROWS[:4], "targets": np.arange(4)}], "all or none should have"),
    ):
        one_line(lambda value=value: all_of(samples_of(value, FLOATS), FLOATS), line)
    one_line(lambda: samples_of({"ids": ROWS.astype(np.int64)}, WORDS), "no input 'mask' among 'ids'")
    one_line(lambda: samples_of(dict.fromkeys(("ids", "mask", "kinds"), ROWS), WORDS), "dtype float32")


def test_files_that_cannot_be_inputs_are_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    np.save(tmp_path / "short.npy", ROWS)
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:-8])
    (tmp_path / "no.npy").write_bytes(b"?")
    (tmp_path / "no.npz").write_bytes(b"?")
    (tmp_path / "x.csv").write_text("1,2")
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "both").mkdir()
    np.savez(tmp_path / "both" / "a.npz", ROWS)
    (tmp_path / "both" / "a.png").write_bytes(b"?")
    np.savez(tmp_path / "none.npz")
    np.save(tmp_path / "x.npy", ROWS)
    for name, line in (
        ("objects.npy", "holds Python objects, which only pickle reads"),
        ("objects.npz", "holds Python objects, which only pickle reads"),
        ("short.npy", "its header says 160 bytes, but it holds 152"),
        ("no.npy", "cannot be read as .npy"),
        ("no.npz", "cannot be read as .npz"),
        ("none.npz", "holds no array"),
        ("x.csv", "ends in '.csv', but should be an .npy or .npz file"),
        ("absent.npy", "no such file or folder"),
        ("absent.py:f", "no such file or folder"),
        ("broken.py:f", "broken.py, line 1: ModuleNotFoundError"),
        ("empty", "neither .npz files, images nor CIFAR-10 in it"),
        ("both", "side by side"),
    ):
        one_line(lambda name=name: read_inputs(f"{tmp_path}/{name}", signature=FLOATS), line)
    one_line(lambda: read_inputs(tmp_path / "x.npy", ImageOptions(), FLOATS), "it is no folder of images")


def test_an_npz_that_claims_terabytes_is_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 4)})
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + b"0" * 64)
    (tmp_path / "claims.npy").write_bytes(header.getvalue() + b"0" * 64)
    for read, name in ((read_arrays, "claims.npz"), (read_array, "claims.npy")):
        one_line(lambda read=read, name=name: read(tmp_path / name), "its header says 17,592,186,044,416 bytes")
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1000, 1000)))
    monkeypatch.setattr(array_files, "LARGEST", 1 << 20)
    one_line(lambda: read_arrays(tmp_path / "bomb.npz"), "write an .npy, which is mapped from disk")


def test_images_that_cannot_be_inputs_are_one_line(tmp_path: Path) -> None:
    write_image(tmp_path / "mixed" / "a.png")
    write_image(tmp_path / "mixed" / "b.png", 9, 8)
    write_image(tmp_path / "large" / "a.png", 9, 9)
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "a.jpg").write_bytes(b"no image")
    write_image(tmp_path / "kinds" / "cat" / "a.png")
    (tmp_path / "kinds" / "dog").mkdir()
    bytes_only = Signature((Tensor("x", (None, 8, 8, 3), "uint8"),), ())
    for name, options, takes, line in (
        ("mixed", None, IMAGE, "b.png: 9x8 pixels, but a.png has 8x8: say what to resize to, --size"),
        ("large", None, IMAGE, "shape (1, 9, 9, 3), but the model takes"),
        ("corrupt", None, IMAGE, "a.jpg: begins as no JPEG, PNG, BMP or WebP does"),
        ("kinds", None, IMAGE, "dog: 0 images"),
        ("mixed", None, WORDS, "a folder of images, but the model takes 'ids'"),
        ("mixed", None, bytes_only, "say --range 0..255"),
        ("mixed", ImageOptions(layout="NCHW"), IMAGE, "try layout NHWC"),
    ):
        one_line(lambda name=name, o=options, t=takes: all_of(read_inputs(tmp_path / name, o, t), t), line)
    assert all_of(read_inputs(tmp_path / "mixed", ImageOptions(size=(8, 8)), IMAGE), IMAGE)["x"].shape == (2, 8, 8, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"size": (0, 8)}, {"size": (8,)}, {"layout": "CHWN"}, {"range": "0..2"}, {"order": "GBR"}, {"mean": (1, 2)},
        {"std": (0.0,)}, {"mean": (float("nan"),)},
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_one_line(options: dict[str, Any]) -> None:
    one_line(lambda: ImageOptions(**options), "images: ")


def test_a_folder_stays_on_disk(tmp_path: Path) -> None:
    """Memory is bounded: of 64 files of 4 MB no more than a few are held at a time."""
    for number in range(64):
        np.savez(tmp_path / f"{number:02}.npz", x=np.full((8, 1 << 17), number, np.float32))
    tracemalloc.start()
    samples = read_inputs(tmp_path)
    assert sum(len(batch["x"]) for batch in samples.batches(16)) == 64 * 8
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6


def one_line(call: Any, line: str) -> None:
    with pytest.raises(PtqError) as error:
        call()
    said = str(error.value)
    assert len(said.splitlines()) == 1
    assert line in said, said
