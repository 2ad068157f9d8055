"""`ptq compare`: two artifacts side by side, whatever their runtimes."""

from __future__ import annotations

from pathlib import Path

import pytest
from cifar10_files import write
from foreign import write_model
from tiny_cnn import calibration, float_model, write_onnx

from ptq.cases import Case
from ptq.cli import main
from ptq.engine.registry import Registry
from ptq.workloads.digits import MODEL


def compare(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["compare", *map(str, arguments)])
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


@pytest.fixture
def light(tmp_path: Path) -> Path:
    write_model(tmp_path / "light.onnx")
    return tmp_path / "light.onnx"


@pytest.fixture
def heavy(tmp_path: Path) -> Path:
    write_model(tmp_path / "heavy.onnx", conv=True)
    return tmp_path / "heavy.onnx"


def test_a_slower_one_exits_1_and_a_faster_one_0(light: Path, heavy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = compare(capsys, light, heavy, "--batch", 16)
    assert code == 1
    for part in ("A: light.onnx", "B: heavy.onnx", "onnxruntime", "0 of 1 Gemm in integer", "0 of 3 Conv", "float32"):
        assert part in said, part
    assert f"{light.stat().st_size:,}" in said
    assert "fail: B against A, batch 16: time ratio " in said
    assert compare(capsys, heavy, light, "--batch", 16)[0] == 0
    assert compare(capsys, light, heavy, "--batch", 16, "--max-ratio", 1000)[0] == 0


def test_a_model_against_itself_exits_0(light: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = compare(capsys, light, light)
    assert code == 0
    assert "B is 1.0" in said or "B is 0.9" in said


def test_real_images_and_another_runtime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnx2torch", reason="onnx2torch is not installed")
    model = float_model(tmp_path)
    torch = Registry().backends["torch"]
    torch.quantize(Case("tiny", "torch", "u8s8", "minmax"), model, calibration(model), tmp_path / "int8.pt")
    code, said, _ = compare(capsys, tmp_path / "int8.pt", model.onnx, "--max-ratio", 1000)
    assert code == 0
    for part in ("torch", "onnxruntime", "3 of 3 Conv", "0 of 3 Conv", "int8"):
        assert part in said, part
    code, said, _ = compare(capsys, MODEL, MODEL, "--data-dir", write(tmp_path / "data", rows=10), "--max-ratio", 1000)
    assert code == 0


def test_what_cannot_be_compared_is_one_line_and_exit_code_2(
    light: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_onnx(tmp_path / "tiny.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    (tmp_path / "odd.xyz").write_bytes(b"?")
    for arguments, line in (
        ((light, tmp_path / "tiny.onnx"), "light.onnx takes 'x' float32 (?, 8, 8, 1), tiny.onnx 'x' float32 (?, 12,"),
        (
            (light, light, "--data-dir", write(tmp_path / "data", rows=10)),
            "shape (1, 32, 32, 3), but the model takes 'x'",
        ),
        ((light, tmp_path / "broken.onnx"), "broken.onnx: not an ONNX model"),
        ((light, tmp_path / "odd.xyz"), "no backend runs a .xyz file"),
        ((light, light, "--max-ratio", 0), "--max-ratio"),
    ):
        code, said, told = compare(capsys, *arguments)
        assert (code, said) == (2, "")
        assert len(told.strip().splitlines()) == 1
        assert line in told
