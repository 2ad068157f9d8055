"""The command line: jobs people do by hand, and one line with exit code 2 for what they can mend."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pytest
from any_model import encoder, sentences
from cifar10_files import write
from foreign import images, write_model

from ptq.api import quantized
from ptq.cases import Case
from ptq.cli import commands, main
from ptq.workloads.digits import MODEL

BEST_HERE = "u8s7" if quantized.saturates(Case("any", "onnxruntime", "u8s8", "minmax")) else "u8s8"
QUANTIZE = ("quantize", MODEL, "--data-dir", "{data}", "-o", "{tmp}/o.onnx")


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    """A folder of tiny CIFAR-10 batches: 200 rows to calibrate on, 40 to test; random pixels."""
    return write(tmp_path / "data", rows=40)


@pytest.fixture
def mine(tmp_path: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with model.onnx of three classes, train.npy, test.npz with its targets, labels.npy."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.onnx")
    x, y = images(90)
    np.save("train.npy", x[:30])
    np.savez("test.npz", x=x[30:], targets=y[30:])
    np.save("x.npy", x[30:])
    np.save("labels.npy", y[30:])
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_any_model_and_any_inputs(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "quantize", "model.onnx", "--calibration", "train.npy", "-o", "int8.onnx")
    assert code == 0
    for part in (f"case: model-onnxruntime-{BEST_HERE}-mse_gptq-channel", "samples: 30, digest ", "wrote int8.onnx ("):
        assert part in said
    by_archive = run(capsys, "evaluate", "int8.onnx", "--data", "test.npz", "--baseline", "model.onnx")
    by_array = run(
        capsys, "evaluate", "int8.onnx", "--data", "x.npy", "--targets", "labels.npy", "--baseline", "model.onnx"
    )
    assert by_archive == by_array
    assert by_archive[0] == 0
    for part in ("int8.onnx: top1 ", "/60), n=60", "baseline model.onnx: ", "drop pp", "agreement", "integer share"):
        assert part in by_array[1]
    code, said, _ = run(capsys, "evaluate", "int8.onnx", "--data", "x.npy", "--baseline", "model.onnx")
    assert code == 0
    assert "no truth was given: the answers of model.onnx are the truth" in said


def test_several_inputs_of_any_length(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder(mine / "encoder.onnx")
    Path("words").mkdir()
    for number, sentence in enumerate(sentences(20)):
        np.savez(f"words/{number:02}.npz", **sentence)
    words = ("quantize", "encoder.onnx", "--calibration", "words", "--method", "minmax", "-o", "o.onnx")
    assert run(capsys, *words)[0] == 0
    code, said, _ = run(capsys, "evaluate", "o.onnx", "--data", "words", "--baseline", "encoder.onnx")
    assert code == 0
    assert "o.onnx: sqnr " in said
    code, said, _ = run(capsys, "inspect", "o.onnx")
    assert "input 'attention_mask' int64 (?, ?)" in said


def test_a_folder_of_images_with_its_classes(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    x, y = images(30)
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        Path(f"images/{label}").mkdir(parents=True, exist_ok=True)
        grey = np.rint(image * 15).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
        cv2.imwrite(f"images/{label}/{number:02}.png", grey)
    # 0..255 by 15 is 0..16 again
    options = ("--size", "8x8", "--range", "0..255", "--mean", "0", "--std", "15")
    code, said, _ = run(capsys, "evaluate", "model.onnx", "--data", "images", *options)
    assert code == 0
    assert "model.onnx: top1 1.0000 (30/30)" in said
    code, said, _ = run(capsys, "quantize", "model.onnx", "--calibration", "images", *options, "-o", "i.onnx")
    assert "images: 8x8 RGB 0..255, mean [0.0], std [15.0]" in said
    code, _, said = run(capsys, "evaluate", "model.onnx", "--data", "images")
    assert (code, "shape (1, 16, 16, 1), but the model takes" in said) == (2, True)


def test_quantize_then_evaluate_on_cifar(
    batches: Path, store_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "uint8.onnx"
    code, said, _ = run(
        capsys, "quantize", MODEL, "--dtype", "uint8", "--method", "minmax", "--data-dir", batches,
        "--samples-per-class", 5, "--seed", 7, "-o", out,
    )  # fmt: skip
    assert code == 0
    for part in ("samples: 50, seed 7", "uint8-minmax-channel", f"wrote {out}"):
        assert part in said
    assert 0 < out.stat().st_size < MODEL.stat().st_size
    code, said, _ = run(capsys, "evaluate", out, "--data-dir", batches, "--baseline", MODEL)
    assert code == 0
    assert "airplane" in said
    assert "/40), drop" in said


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    batches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []
    for index, seed in enumerate((1, 1, 2)):
        monkeypatch.setenv("PTQ_CACHE", str(tmp_path / f"cache{index}"))
        out = tmp_path / f"{index}.onnx"
        words = ("--samples-per-class", 5, "--seed", seed, "--method", "minmax", "-o", out)
        assert run(capsys, "quantize", MODEL, "--data-dir", batches, *words)[0] == 0
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
        words = ("--data-dir", batches, "--samples-per-class", 5, "--method", "minmax", *exclude, "-o", out)
        code, said, _ = run(capsys, "quantize", MODEL, *words)
        assert code == 0
        assert ("in float: " in said) == bool(exclude)
        sizes.append(out.stat().st_size)
    assert sizes == sorted(set(sizes)), "more nodes in float are more bytes"


def test_inspect_lists_the_nodes(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "inspect", "model.onnx")
    assert code == 0
    for part in (
        "Flatten",
        "Gemm",
        "Softmax",
        "input 'x' float32 (?, 8, 8, 1)",
        "1 Gemm",
        "compute nodes run in integer",
    ):
        assert part in said


def test_a_name_is_text_and_no_markup(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "[red]\x1b[31m.onnx"
    (mine / "model.onnx").rename(mine / name)
    for words in (("inspect", name), ("evaluate", name, "--data", "test.npz"), ("inspect", f"{name}.gone")):
        _, said, told = run(capsys, *words)
        assert "\x1b" not in said + told
    assert "[red]\\x1b[31m.onnx.gone" in told
    assert "[red]\\x1b[31m.onnx: top1" in run(capsys, "evaluate", name, "--data", "test.npz")[1]


def test_cache_shows_and_clears(mine: Path, store_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "quantize", "model.onnx", "--calibration", "train.npy", "--method", "minmax", "-o", "q.onnx")
    code, said, _ = run(capsys, "cache")
    assert code == 0
    assert str(store_root) in said
    assert "artifact" in said
    assert run(capsys, "cache", "clear")[0] == 0
    assert "artifact" not in run(capsys, "cache")[1]


PLUGIN = """
import ptq
def choose(statistics, quantizer):
    return min(0.0, statistics.min / 2), max(0.0, statistics.max / 2)
def pytest_ptq_methods(config):
    return [ptq.Method("half", choose, needs={"extremes"})]
"""


@pytest.mark.parametrize("plugin", ["halves.py", "halves"])
def test_a_plugin_brings_a_method(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plugin: str
) -> None:
    (mine / "halves.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(mine))
    words = ("quantize", "model.onnx", "--calibration", "train.npy", "--method", "half", "-o", "half.onnx")
    assert run(capsys, *words)[0] == 2
    code, said, _ = run(capsys, "--plugin", plugin, *words)
    assert (code, f"case: model-onnxruntime-{BEST_HERE}-half-channel" in said) == (0, True)


def test_a_plugin_that_fails_is_one_line(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "bad.py").write_text("import nothing_of_that_name\n")
    (mine / "late.py").write_text("def pytest_ptq_backends():\n    raise KeyError('x')\n")
    for plugin, line in (
        ("bad.py", "bad.py, line 1: ModuleNotFoundError"), ("absent.py", "absent.py: no such file"),
        ("no.such.module", "--plugin no.such.module: cannot be imported"), ("late.py", "pytest_ptq_backends: KeyError"),
    ):  # fmt: skip
        code, _, said = run(capsys, "--plugin", plugin, "cache")
        assert (code, len(said.strip().splitlines())) == (2, 1)
        assert line in said


def test_every_command_has_help_with_an_example() -> None:
    def leaves(command: click.Command) -> list[click.Command]:
        inner = list(command.commands.values()) if isinstance(command, click.Group) else []
        return [command, *(leaf for each in inner for leaf in leaves(each))]

    for command in leaves(commands())[1:]:
        assert command.help, command.name
        assert (command.epilog or "").startswith("Example: ptq "), command.name


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("quantize", MODEL, "--data-dir", "{tmp}", "-o", "{tmp}/o.onnx"), "side by side, but should hold one kind"),
        ((*QUANTIZE, "--dtype", "int7"), "onnxruntime int7 is not a case"),
        ((*QUANTIZE, "--samples-per-class", "5", "--exclude", "nothing*", "--method", "minmax"), "called 'nothing*'"),
        ((*QUANTIZE, "--backend", "tensorrt"), "backend 'tensorrt' is not known: it should be one of"),
        ((*QUANTIZE, "--samples-per-class", "9999"), "9999 rows of every class"),
        ((*QUANTIZE, "--size", "huge"), "--size huge: should be HEIGHTxWIDTH"),
        ((*QUANTIZE, "--mean", "a,b"), "--mean a,b: should be numbers"),
        ((*QUANTIZE, "--size", "8x8", "--method", "minmax"), "it is no folder of images"),
        (("quantize", MODEL, "--calibration", "{tmp}/test.npz", "-o", "{tmp}/o.onnx"), "shape (1, 8, 8, 1)"),
        (("quantize", MODEL, "--calibration", "{tmp}/test.npz", "-o", "{tmp}/o.pt"), "onnxruntime writes .onnx files"),
        (("quantize", "{tmp}/other.onnx", "--data", "{tmp}/test.npz", "-o", "{tmp}/other.onnx"), "other.onnx itself"),
        (("quantize", "{tmp}/other.onnx", "--data", "{tmp}/test.npz", "-o", "{tmp}"), "is a folder"),
        (("quantize", "{tmp}/other.onnx", "--data", "{tmp}/test.npz", "--seed", "1", "-o", "{tmp}/o.onnx"), "test.npz"),
        (("quantize", "{tmp}/absent.onnx", "--data-dir", "{data}", "-o", "{tmp}/o.onnx"), "absent.onnx"),
        (("quantize", "{tmp}/broken.onnx", "--data-dir", "{data}", "-o", "{tmp}/o.onnx"), "broken.onnx: not an ONNX"),
        (("evaluate", "{tmp}/broken.onnx", "--data-dir", "{data}"), "broken.onnx: not an ONNX model"),
        (("evaluate", "{tmp}/model.xyz", "--data-dir", "{data}"), "no backend runs a .xyz file"),
        (("evaluate", "{tmp}/other.onnx", "--data", "{tmp}/test.npz", "--metric", "x"), "metric 'x' is not known"),
        (("evaluate", "{tmp}/other.onnx", "--data", "{tmp}/x.npy"), "neither targets nor a baseline"),
        (("evaluate", "{tmp}/other.onnx", "--data", "{tmp}/x.npy", "--targets", "{tmp}/x.npy"), "needs class indices"),
        (("convert", "{tmp}/broken.onnx", "{tmp}/x.xyz"), "no such conversion; there are .h5"),
        (("convert", "{tmp}/other.onnx", "{tmp}/other.onnx"), "other.onnx itself"),
        (("evaluate", "{tmp}/other.onnx", "--data-dir", "{data}"), "shape (1, 32, 32, 3), but the model takes 'x'"),
        (("compare", MODEL, MODEL, "--max-ratio", "nan"), "finite"),
        (("compare", MODEL, MODEL, "--seconds", "inf"), "finite"),
        (("diff", "{tmp}/damaged.json", "{tmp}/damaged.json"), "damaged.json"),
        (("calibrate", "coco", "--images", "/", "--list", "{tmp}/l.txt", "--out", "{tmp}/o.npy"), "0 images"),
        (("inspect", "{tmp}/model.xyz"), "no backend runs a .xyz file"),
        (("nonsense",), "nonsense"),
        (("quantize",), "Missing"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_exit_code_2_and_nothing_is_written(
    batches: Path, store_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...], line: str,
) -> None:  # fmt: skip
    (tmp_path / "broken.onnx").write_bytes(b"this is no model")
    (tmp_path / "model.xyz").write_bytes(b"?")
    write_model(tmp_path / "other.onnx")
    (tmp_path / "damaged.json").write_text('{"schema": "ptq/1", "results": [{"id": "a"}]}')
    x, y = images(30)
    np.savez(tmp_path / "test.npz", x=x, targets=y)
    np.save(tmp_path / "x.npy", x)
    held = {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()}
    filled = [str(each).replace("{tmp}", str(tmp_path)).replace("{data}", str(batches)) for each in arguments]
    code, _, said = run(capsys, *filled)
    assert code == 2
    told = [each for each in said.strip().splitlines() if not each.endswith(" ...")]
    assert len(told) == 1
    assert told[0].startswith("ptq: ")
    assert line in told[0]
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()} == held
