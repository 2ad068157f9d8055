"""The command line: jobs people do by hand, and one line with exit code 2 for what they can mend."""

from __future__ import annotations

from pathlib import Path

import pytest
from cifar10_files import write
from foreign import write_model

from ptq.cli import main
from ptq.workloads.digits import MODEL

QUANTIZE = ("quantize", MODEL, "--data-dir", "{data}", "-o", "o.onnx")


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    """A folder of tiny CIFAR-10 batches: 200 rows to calibrate on, 40 to test; random pixels."""
    return write(tmp_path / "data", rows=40)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_quantize_then_evaluate_against_the_float_model(
    batches: Path, store_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "int8.onnx"
    code, said, _ = run(
        capsys, "quantize", MODEL, "--dtype", "int8", "--method", "minmax", "--data-dir", batches,
        "--samples-per-class", 5, "--seed", 7, "-o", out,
    )  # fmt: skip
    assert code == 0
    for part in ("seed 7, 50 samples (5 per class)", "method minmax, dtype int8", f"wrote {out}"):
        assert part in said
    assert 0 < out.stat().st_size < MODEL.stat().st_size
    code, said, _ = run(capsys, "evaluate", out, "--data-dir", batches, "--baseline", MODEL)
    assert code == 0
    assert "airplane" in said
    assert "agreement" in said
    assert "/40), baseline" in said


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    batches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []
    for index, seed in enumerate((1, 1, 2)):
        monkeypatch.setenv("PTQ_CACHE", str(tmp_path / f"cache{index}"))
        out = tmp_path / f"{index}.onnx"
        assert (
            run(capsys, "quantize", MODEL, "--data-dir", batches, "--samples-per-class", 5, "--seed", seed, "-o", out)[
                0
            ]
            == 0
        )
        made.append(out.read_bytes())
    assert made[0] == made[1] != made[2]


def test_what_is_excluded_by_name_stays_in_float(
    batches: Path, store_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = []
    for index, exclude in enumerate(
        ((), ("--exclude", "*stack32_conv1*"), ("--exclude", "*stack*_conv?_*", "--exclude", "auto"))
    ):
        out = tmp_path / f"{index}.onnx"
        words = ("quantize", MODEL, "--data-dir", batches, "--samples-per-class", 5, *exclude, "-o", out)
        code, said, _ = run(capsys, *words)
        assert code == 0
        assert ("in float: " in said) == bool(exclude)
        sizes.append(out.stat().st_size)
    assert sizes == sorted(set(sizes)), "more nodes in float are more bytes"


def test_inspect_lists_the_nodes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_model(tmp_path / "m.onnx")
    code, said, _ = run(capsys, "inspect", tmp_path / "m.onnx")
    assert code == 0
    for part in (
        "Flatten",
        "Gemm",
        "Softmax",
        "input x float32 ('N', 8, 8, 1)",
        "1 Gemm",
        "compute nodes run in integer",
    ):
        assert part in said


def test_cache_shows_and_clears(
    batches: Path, store_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "quantize", MODEL, "--data-dir", batches, "--samples-per-class", 5, "-o", tmp_path / "q.onnx")
    code, said, _ = run(capsys, "cache")
    assert code == 0
    assert str(store_root) in said
    assert "artifact" in said
    assert run(capsys, "cache", "clear")[0] == 0
    assert "artifact" not in run(capsys, "cache")[1]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("quantize", MODEL, "--data-dir", "{tmp}", "-o", "o.onnx"), "ptq: "),
        ((*QUANTIZE, "--dtype", "int7"), "onnxruntime int7/minmax is not a case"),
        ((*QUANTIZE, "--samples-per-class", "5", "--exclude", "nothing*"), "no node is called 'nothing*'"),
        ((*QUANTIZE, "--backend", "tensorrt"), "--backend tensorrt: should be one of"),
        ((*QUANTIZE, "--samples-per-class", "9999"), "9999 rows of every class"),
        (("quantize", "{tmp}/absent.onnx", "--data-dir", "{data}", "-o", "o.onnx"), "absent.onnx"),
        (("quantize", "{tmp}/broken.onnx", "--data-dir", "{data}", "-o", "o.onnx"), "broken.onnx: not an ONNX model"),
        (("evaluate", "{tmp}/broken.onnx", "--data-dir", "{data}"), "broken.onnx: not an ONNX model"),
        (("evaluate", "{tmp}/model.xyz", "--data-dir", "{data}"), "no backend runs a .xyz file"),
        (("convert", "{tmp}/broken.onnx", "{tmp}/x.xyz"), "no such conversion; there are .h5 to .onnx"),
        (("evaluate", "{tmp}/other.onnx", "--data-dir", "{data}"), "other.onnx: float32 input of shape (40, 32"),
        (("compare", MODEL, MODEL, "--max-ratio", "nan"), "both should be finite"),
        (("compare", MODEL, MODEL, "--seconds", "inf"), "both should be finite"),
        (("diff", "{tmp}/damaged.json", "{tmp}/damaged.json"), "a result is not as --ptq-json writes it"),
        (("calibrate", "coco", "--images", "/", "--list", "{tmp}/l.txt", "--out", "{tmp}/o.npy"), "0 images"),
        (("inspect", "{tmp}/model.xyz"), "no backend runs a .xyz file"),
        (("nonsense",), "nonsense"),
        (("quantize",), "Missing"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_exit_code_2(
    batches: Path, store_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...], line: str,
) -> None:  # fmt: skip
    (tmp_path / "broken.onnx").write_bytes(b"this is no model")
    (tmp_path / "model.xyz").write_bytes(b"?")
    write_model(tmp_path / "other.onnx")
    (tmp_path / "damaged.json").write_text('{"schema": "ptq/1", "results": [{"id": "a"}]}')
    filled = [str(each).replace("{tmp}", str(tmp_path)).replace("{data}", str(batches)) for each in arguments]
    code, _, said = run(capsys, *filled)
    assert code == 2
    assert len(said.strip().splitlines()) == 1
    assert said.startswith("ptq: ")
    assert line in said
