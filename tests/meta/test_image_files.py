"""Image files as samples, the list that says which, and the tensor made of them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console

from ptq.calibration.image_tensor import ImageTensor
from ptq.data.contract import ContractBroken, InputContract
from ptq.data.image_files import ImageFiles, list_images, read_list, sample, write_list
from ptq.data.samples import ArraySamples
from ptq.data.tensor_file import write_tensor, write_tensors
from ptq.errors import BadData, BadModel, NoData, PtqError

cv2 = pytest.importorskip("cv2", reason="reading images needs OpenCV: pip install 'ptq[coco]'")

SIZE = 32
QUIET = Console(file=io.StringIO())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root of 12 images in ``images/``, of odd sizes, one grey."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    for number in range(12):
        image = generator.integers(0, 256, (20 + number, 33, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:03}.jpg"), image[..., 0] if number == 5 else image)
    (folder / "notes.txt").write_text("not an image")
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return detector(tmp_path / "detector.onnx", [1, 3, SIZE, SIZE])


def detector(path: Path, shape: list[int]) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["pixels"], ["out"])],
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, ir_version=10), path)
    return path


def request(root: Path, out: str, model: Path | None, **fields: object) -> ImageTensor:
    folder = root.parent
    given = {"count": 5, "seed": 42, "model": model, **fields}
    return ImageTensor(root / "images", folder / out, folder / "list.txt", root, **given)  # type: ignore[arg-type]


def test_images_are_sorted_and_nothing_else(root: Path) -> None:
    assert [each.name for each in list_images(root / "images")] == [f"{each:03}.jpg" for each in range(12)]
    with pytest.raises(NoData, match="no such folder"):
        list_images(root / "absent")
    with pytest.raises(NoData, match="0 images"):
        list_images(root)


def test_a_sample_is_of_the_seed_and_leaves_global_state_alone(root: Path) -> None:
    paths = list_images(root / "images")
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    first = sample(paths, 6, seed=1)
    assert first == sample(paths, 6, seed=1)
    assert first != sample(paths, 6, seed=2)
    assert len(set(first)) == 6
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]  # noqa: NPY002
    for count in (0, 13):
        with pytest.raises(BadData, match=f"12 images, but {count} should be drawn"):
            sample(paths, count, seed=1)


def test_a_list_comes_back_as_it_went(root: Path, tmp_path: Path) -> None:
    chosen = sample(list_images(root / "images"), 4, seed=0)
    path = tmp_path / "list.txt"
    write_list(path, chosen, root)
    assert path.read_text().splitlines() == [f"images/{each.name}" for each in chosen]
    assert read_list(path, root) == chosen


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 paths"),
        ("images/099.jpg\n", r"list.txt:1: 'images/099.jpg' is not below"),
        ("images/001.jpg\n\nimages/001.jpg\n", r"list.txt:3: .* is on line 1 already"),
        ("../data/images/001.jpg\n", "stay below it"),
        ("/images/001.jpg\n", "should be relative"),
    ],
)
def test_a_list_that_cannot_be_used(root: Path, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(BadData, match=said):
        read_list(path, root)


def test_a_list_holds_nothing_outside_the_root(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="not below the data root"):
        write_list(tmp_path / "list.txt", [tmp_path / "elsewhere.jpg"], root)


def test_samples_are_the_same_however_they_are_batched(root: Path) -> None:
    files = ImageFiles(list_images(root / "images"), SIZE)
    whole = np.concatenate(list(files.batches(5)))
    assert whole.shape == (12, 3, SIZE, SIZE)
    assert whole.dtype == np.float32
    assert (whole == np.concatenate(list(files.batches(12)))).all()
    assert whole.max() <= 1
    assert files.targets is None


def test_the_digest_follows_contents_order_and_recipe(root: Path) -> None:
    paths = list_images(root / "images")
    digest = ImageFiles(paths, SIZE).digest
    assert digest == ImageFiles(paths, SIZE).digest
    assert digest != ImageFiles(paths, SIZE + 1).digest
    assert digest != ImageFiles(paths[::-1], SIZE).digest
    paths[3].write_bytes(paths[4].read_bytes())
    changed = ImageFiles(paths, SIZE)
    assert digest != changed.digest
    assert changed.hashes()[3] == changed.hashes()[4]


def test_the_tensor_is_what_the_samples_are(root: Path, model: Path) -> None:
    files = request(root, "out.npy", model).write(QUIET)
    assert files.seed == 42
    want = np.concatenate(list(files.batches(1)))
    assert (np.load(root.parent / "out.npy", allow_pickle=False) == want).all()
    request(root, "out.npz", model).write(QUIET)
    with np.load(root.parent / "out.npz", allow_pickle=False) as archive:
        assert archive.files == ["pixels"]
        assert (archive["pixels"] == want).all()
    assert len((root.parent / "list.txt").read_text().splitlines()) == 5


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_the_same_bytes_in_another_process(root: Path, model: Path, suffix: str) -> None:
    request(root, f"a{suffix}", model).write(QUIET)
    (root.parent / "list.txt").rename(root.parent / "first.txt")
    code = (
        "import sys, io\nfrom pathlib import Path\nfrom rich.console import Console\n"
        "from ptq.calibration.image_tensor import ImageTensor\n"
        "root, out, names, model = map(Path, sys.argv[1:])\n"
        "ImageTensor(root / 'images', out, names, root, 5, 42, model).write(Console(file=io.StringIO()))\n"
    )
    folder = root.parent
    arguments = [str(each) for each in (root, folder / f"b{suffix}", folder / "list.txt", model)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert (folder / f"a{suffix}").read_bytes() == (folder / f"b{suffix}").read_bytes()
    assert (folder / "first.txt").read_bytes() == (folder / "list.txt").read_bytes()


def test_a_list_that_exists_is_used_and_not_touched(root: Path, model: Path) -> None:
    path = root.parent / "list.txt"
    path.write_text("images/007.jpg\nimages/005.jpg\n")
    files = request(root, "out.npy", model, count=5, seed=1).write(QUIET)
    assert [each.name for each in files.paths] == ["007.jpg", "005.jpg"]
    assert path.read_text() == "images/007.jpg\nimages/005.jpg\n"
    assert np.load(root.parent / "out.npy", allow_pickle=False).shape == (2, 3, SIZE, SIZE)


def test_a_corrupt_image_is_named_and_leaves_nothing(root: Path, model: Path) -> None:
    for path in list_images(root / "images"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadData, match=r"\d+\.jpg: ends in the middle"):
        request(root, "out.npy", model).write(QUIET)
    assert not list(root.parent.glob("*out.npy*"))
    assert not (root.parent / "list.txt").exists()


def test_the_models_own_input_counts(root: Path, tmp_path: Path) -> None:
    free = detector(tmp_path / "free.onnx", [0, 3, 0, 0])
    assert request(root, "out.npy", free, count=1).write(QUIET).size == 640
    assert request(root, "out.npy", None, count=1).write(QUIET).size == 640
    nhwc = detector(tmp_path / "nhwc.onnx", [1, SIZE, SIZE, 3])
    with pytest.raises(BadModel, match=r"nhwc.onnx: its input is 'pixels' float32 \(1, 32, 32, 3\), but should be"):
        request(root, "out.npy", nhwc).write(QUIET)


def test_progress_is_shown(root: Path, model: Path) -> None:
    shown = io.StringIO()
    request(root, "out.npy", model).write(Console(file=shown, force_terminal=True))
    assert "5/5" in shown.getvalue()


def test_inputs_are_held_to_the_contract(tmp_path: Path) -> None:
    samples = ArraySamples(np.full((2, 3, 4, 4), 255.0, dtype=np.float32))
    contract = InputContract((None, 3, 4, 4), "NCHW", low=0.0, high=1.0)
    with pytest.raises(ContractBroken, match="not divided by 255"):
        write_tensor(tmp_path / "out.npy", samples, contract, "x")
    assert not list(tmp_path.iterdir())
    write_tensor(tmp_path / "out.npy", samples, None, "x")
    assert np.load(tmp_path / "out.npy", allow_pickle=False).shape == (2, 3, 4, 4)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PtqError, match=r"should end in .npy"):
        write_tensor(tmp_path / "out.bin", ArraySamples(np.zeros((1, 2), np.float32)), None, "x")


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    import tracemalloc

    class Stream(ArraySamples):
        def batches(self, size: int) -> object:  # type: ignore[override]
            return (np.full((1, 3, 64, 64), number / len(self), np.float32) for number in range(len(self)))

    peaks = []
    for count in (20, 400):
        samples = Stream(np.zeros((count, 1), dtype=np.float32))
        write_tensor(tmp_path / "warm.npz", samples, None, "x")
        tracemalloc.start()
        write_tensor(tmp_path / "out.npz", samples, None, "x")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]


def test_several_inputs_of_any_dtype_are_read_once_each(tmp_path: Path) -> None:
    given = {"ids": np.arange(6, dtype=np.int64).reshape(3, 2), "mask": np.ones((3, 1), np.bool_)}
    samples = ArraySamples(given)
    write_tensors(tmp_path / "out.npz", samples, dict.fromkeys(given))
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        assert archive.files == ["ids", "mask"]
        for name, values in given.items():
            assert archive[name].dtype == values.dtype
            assert (archive[name] == values).all()
    with pytest.raises(PtqError, match=r"out.npy: holds one tensor, but there are 2 inputs: it should end in .npz"):
        write_tensors(tmp_path / "out.npy", samples, dict.fromkeys(given))


def test_samples_that_differ_in_shape_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    ragged = ArraySamples([np.zeros(2, np.float32), np.zeros(3, np.float32)])
    with pytest.raises(BadData, match=r"input 'x': sample 1 is \(3,\), but one array needs one shape for all"):
        write_tensor(tmp_path / "out.npy", ragged, None, "x")
    assert not list(tmp_path.iterdir())
