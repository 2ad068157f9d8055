"""The functions a person calls: any model, any inputs, and one line for what cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from any_model import WORDS, autoencoder, encoder, sentences, two_scales
from foreign import images, write_model

from ptq.api import compare, evaluate, quantize, quantized
from ptq.cases import Case
from ptq.errors import PtqError
from ptq.metrics.top1 import Top1

BEST_HERE = "u8s7" if quantized.saturates(Case("any", "onnxruntime", "u8s8", "minmax")) else "u8s8"
pytestmark = pytest.mark.usefixtures("store_root")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A classifier of three classes, input (N, 8, 8, 1)."""
    write_model(tmp_path / "My model.onnx")
    return tmp_path / "My model.onnx"


def test_three_lines_for_a_classifier(model: Path, store_root: Path) -> None:
    x, y = images(120)
    made = quantize(model, calibration=x[:60])
    assert made.case.id == f"my_model-onnxruntime-{BEST_HERE}-mse_gptq-channel"
    assert made.path.is_relative_to(store_root)
    assert os.fspath(made) == str(made.path)
    assert made.notes["samples"].startswith("60, digest ")
    found = evaluate(made, x[60:], y[60:], baseline=model)
    assert (found.metric, found.unit, found.truth, found.score.n) == ("top1", "share", "given", 60)
    assert found.score.value > 0.9
    assert found.integer_share == 1.0
    assert found.interval is not None
    for part in ("top1 ", "baseline My model.onnx: ", "drop ", "95 % interval", "agreement ", "SQNR ", "share 1.00"):
        assert part in str(found)
    timed = compare(model, made, x, batch=4, seconds=0.5, max_ratio=1000)
    assert timed.verdict.name == "pass"
    assert "1 of 1 Gemm in integer" in str(timed)
    assert "A: My model.onnx" in str(timed)


def test_a_drop_is_seen(tmp_path: Path, model: Path) -> None:
    """The red twin: a model that favours one class is worse than the float model, and the interval says so."""
    x, y = images(300, seed=3)
    write_model(tmp_path / "worse.onnx", favour=40)
    found = evaluate(tmp_path / "worse.onnx", x, y, baseline=model)
    assert found.interval is not None
    assert found.interval.low > 0
    assert found.agreement is not None
    assert found.agreement < 0.99


def test_sentences_of_any_length_without_a_truth(tmp_path: Path) -> None:
    model = encoder(tmp_path / "encoder.onnx")
    rows = sentences(40)
    columns = {name: [row[name] for row in rows] for name in WORDS}
    made = quantize(model, calibration=rows, method="minmax")
    assert quantize(model, calibration=columns, method="minmax").path == made.path, "the same samples in another form"
    found = evaluate(made, sentences(30, seed=1), baseline=model)
    assert (found.metric, found.truth, found.score.n) == ("sqnr", "baseline", 30)
    assert found.score.value > 15
    assert "no truth was given: the answers of encoder.onnx are the truth" in str(found)
    assert compare(model, made, rows, seconds=0.3).ratio.value > 0


def test_an_autoencoder_is_judged_by_the_float_model(tmp_path: Path) -> None:
    model, x = autoencoder(tmp_path / "auto.onnx"), np.random.default_rng(1).normal(size=(80, 16)).astype(np.float32)
    made = quantize(model, calibration=x[:40], dtype="uint8", out=tmp_path / "out" / "auto.uint8.onnx")
    assert made.path == tmp_path / "out" / "auto.uint8.onnx"
    found = evaluate(made, x[40:], baseline=model)
    assert (found.metric, found.unit, found.truth) == ("sqnr", "dB", "baseline")
    assert found.score.value > 20
    assert evaluate(model, x, baseline=model).score.value == 150
    assert evaluate(made, x[40:], x[40:, 0].astype(np.int64) % 16, metric="sqnr", baseline=model).truth == "baseline"


def test_a_metric_by_name_by_file_and_by_hand(model: Path, tmp_path: Path) -> None:
    x, y = images(60)
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "import numpy as np\n"
        "from ptq.metrics.metric import Metric, Score\n"
        "@dataclass(frozen=True)\n"
        "class Wrong(Metric):\n"
        "    name: ClassVar[str] = 'wrong'\n"
        "    higher_is_better: ClassVar[bool] = False\n"
        "    def score(self, predictions, samples):\n"
        "        wrong = next(iter(predictions.values())).argmax(axis=1) != samples.targets\n"
        "        return Score(float(wrong.mean()), len(wrong), int(wrong.sum()), {}, wrong.astype(float))\n"
    )
    scores = [evaluate(model, x, y, metric=metric).score.value for metric in (None, "top1", Top1())]
    assert len(set(scores)) == 1
    assert evaluate(model, x, y, metric=f"{tmp_path}/mine.py:Wrong").score.value == pytest.approx(1 - scores[0])


def test_the_best_case_is_by_the_fields_that_are_left_open(model: Path) -> None:
    x, _ = images(30)
    assert quantize(model, x, method="minmax").case.id.endswith(f"{BEST_HERE}-minmax-channel")
    assert quantize(model, x, dtype="uint8", granularity="tensor").case.id.endswith("uint8-mse_gptq")
    assert quantize(model, x, exclude="auto", method="minmax").case.exclude == "auto"


def test_what_is_lost_by_nature_is_said(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = images(30)
    for isa, said in ((("x86", "avx2"), True), (("x86", "avx2", "avx_vnni"), False), (("arm", "asimddp"), False)):
        monkeypatch.setattr(quantized, "instruction_sets", lambda isa=isa: isa)
        assert ("this CPU" in quantize(model, x, method="minmax", dtype="u8s8").notes) == said
        made = quantize(model, x, method="minmax")
        assert "this CPU" not in made.notes
        assert made.case.dtype == ("u8s7" if said else "u8s8"), "the default is the best that does not saturate here"
    joined = two_scales(tmp_path / "joined.onnx")
    assert "exclude='auto'" in quantize(joined, x, method="minmax").notes["mixed scales"]
    assert "mixed scales" not in quantize(joined, x, method="minmax", exclude="auto").notes
    assert "mixed scales" not in quantize(model, x, method="minmax").notes


def test_what_cannot_be_is_one_line_and_writes_nothing(model: Path, tmp_path: Path) -> None:
    x, y = images(30)
    before = model.read_bytes()
    encoder(tmp_path / "encoder.onnx")
    (tmp_path / "model.xyz").write_bytes(b"?")
    out = tmp_path / "o.onnx"
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: quantize(tmp_path / "absent.onnx", x), "absent.onnx: no such file or folder"),
        (lambda: quantize(tmp_path / "model.xyz", x), "model.xyz"),
        (lambda: quantize(model, x, out=model), "model.onnx itself, but should be another file"),
        (lambda: quantize(model, x, out=tmp_path / "o.tflite"), "onnxruntime writes .onnx files"),
        (lambda: quantize(model, x, out=tmp_path), "is a folder"),
        (lambda: quantize(model, x, dtype="int7", out=out), "int7 is not a case"),
        (
            lambda: quantize(model, x, backend="tensorrt", out=out),
            "backend 'tensorrt' is not known: it should be one of",
        ),
        (lambda: quantize(model, x[..., 0], out=out), "one sample without a batch dimension"),
        (lambda: quantize(model, (row for row in x), out=out), "can be read only once"),
        (lambda: quantize(model, tmp_path / "absent.npy", out=out), "absent.npy: no such file"),
        (lambda: quantize(model, x, exclude="nothing*", out=out), "'nothing*'"),
        (lambda: quantize(model, np.full_like(x, np.nan), out=out), "nan"),
        (lambda: evaluate(model, x), "neither targets nor a baseline"),
        (lambda: evaluate(model, x, y[:9]), "9 targets for 30 samples"),
        (lambda: evaluate(model, x, np.eye(3)[y]), "top1 needs class indices"),
        (lambda: evaluate(model, x, metric="top1", baseline=model), "there are no targets"),
        (lambda: evaluate(model, x, y, metric="nonsense"), "it should be one of"),
        (lambda: evaluate(tmp_path / "model.xyz", x, y), "no backend runs a .xyz file"),
        (lambda: compare(model, tmp_path / "encoder.onnx"), "but both should take the same"),
        (lambda: compare(tmp_path / "encoder.onnx", tmp_path / "encoder.onnx"), "give inputs (--data)"),
        (lambda: compare(model, model, seconds=float("nan")), "finite numbers above 0"),
    ]
    for call, line in calls:
        with pytest.raises(PtqError) as error:
            call()
        assert line in str(error.value), str(error.value)
        assert len(str(error.value).splitlines()) == 1
    assert not out.exists()
    assert model.read_bytes() == before


def test_a_name_is_text(tmp_path: Path) -> None:
    path = tmp_path / "[red]\x1b[31mx.onnx"
    write_model(path)
    x, y = images(30)
    said = str(evaluate(path, x, y))
    assert said.startswith("[red]\\x1b[31mx.onnx: top1")


def test_importing_it_imports_no_framework_and_no_pytest() -> None:
    code = (
        "import sys, ptq.api\n"
        "names = {'onnx', 'onnxruntime', 'torch', 'tensorflow', 'pytest', 'scipy', 'cv2', 'PIL', 'rich'}\n"
        "print(sorted(names & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
