"""`ptq calibrate`: tensors, statistics and ranges, written and read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cifar10_files import write
from onnxruntime.quantization import quantize_static
from onnxruntime.quantization.calibrate import load_tensors_data

from ptq.calibration.prepare import prepare
from ptq.cli import main
from ptq.models.onnx_file import signature
from ptq.workloads.digits import MODEL


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_what_it_writes_it_reads_and_onnxruntime_too(
    store_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data", rows=40)
    tensor, statistics, ranges = tmp_path / "c.npz", tmp_path / "s.json", tmp_path / "r.json"
    code, said, _ = run(
        capsys, "calibrate", "model", MODEL, "--data-dir", data, "--samples-per-class", 5, "-o", tensor,
        "--statistics", statistics, "--ranges", ranges, "--method", "percentile",
    )  # fmt: skip
    assert code == 0
    assert "50 samples, seed 42" in said
    assert "percentile (clipped %)" in said
    with np.load(tensor, allow_pickle=False) as arrays:
        (name,) = arrays.files
        assert arrays[name].shape == (50, 32, 32, 3)
        assert arrays[name].dtype == np.float32
    read = load_tensors_data(ranges)
    assert len(read.data) == len(json.loads(statistics.read_text())["data"])
    shown = [run(capsys, "calibrate", *command)[1] for command in (
        ("show", statistics), ("model", MODEL, "--data", tensor),
    )]  # fmt: skip
    table = said[said.index("tensor ") :]
    assert all(each.endswith(table) for each in shown)


@pytest.mark.filterwarnings("ignore")  # onnxruntime's own code
def test_its_minmax_is_that_of_quantize_static(
    store_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensor, ranges = tmp_path / "c.npy", tmp_path / "r.json"
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3)).astype(np.float32)
    np.save(tensor, images)
    prepare(MODEL, tmp_path / "p.onnx")
    entry = signature(tmp_path / "p.onnx").inputs[0].name

    class Reader:
        left = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {entry: image[None]}

    assert run(capsys, "calibrate", "model", MODEL, "--data", tensor, "--ranges", ranges)[0] == 0
    quantize_static(str(tmp_path / "p.onnx"), str(tmp_path / "theirs.onnx"), Reader())
    quantize_static(str(tmp_path / "p.onnx"), str(tmp_path / "ours.onnx"), None, calibration_cache_path=ranges)
    assert (tmp_path / "ours.onnx").read_bytes() == (tmp_path / "theirs.onnx").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("model", MODEL), "Missing option"),
        (("model", MODEL, "--data", "{tmp}/pickled.npy"), "pickled.npy"),
        (("show", "{tmp}/not.json"), "not.json"),
        (("coco", "--images", "{tmp}", "--list", "{tmp}/l.txt", "--out", "{tmp}/x.npy"), "images"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    store_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], line: str
) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "not.json").write_text("{")
    code, _, said = run(capsys, "calibrate", *(str(each).replace("{tmp}", str(tmp_path)) for each in arguments))
    assert code == 2
    assert len(said.strip().splitlines()) == 1
    assert line in said
