"""The first sentence of an explanation names the fault that a test planted; of a healthy model it accuses nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from faults import (
    classifier,
    digits,
    far_from_zero,
    masked_encoder,
    normed_encoder,
    padded_sentences,
    photographs,
    scaled_channel,
    shifted_channel,
    spread_channels,
    widely_read_channel,
)
from foreign import run, write_model
from small_detectors import pictures, write_detector

import ptq
from ptq.cases import Case
from ptq.cli import commands, main
from ptq.data.digits import read
from ptq.data.samples import ArraySamples
from ptq.data.sampling import calibration_samples, evaluation_samples
from ptq.diagnosis.explanation import Explanation
from ptq.diagnosis.finding import LAYER, MACHINE
from ptq.diagnosis.gather import explain, saturates
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.models.graph import Graph
from ptq.models.onnx_file import load
from ptq.models.session import session
from ptq.quantization.method import Method
from ptq.quantization.methods.percentile import percentile

PERCENTILE_90 = Method("percentile90", percentile(90.0))


def explained(
    folder: Path, model: Path, calibration: Any, evaluation: Any, dtype: str = "uint8", method: str = "minmax"
) -> Explanation:
    workload = Workload("planted", model, calibration, evaluation)
    pipeline = Pipeline(workload, Store(folder / "store"), Registry((), (PERCENTILE_90,)))
    return explain(pipeline, Case("planted", "onnxruntime", dtype, method, "channel"))


def images(split: str) -> ArraySamples:
    """Digits: 20 a class for calibration, 160 for evaluation."""
    if split == "train":
        return calibration_samples(read("train"), per_class=20, seed=42)
    whole = evaluation_samples(read("test"))
    return ArraySamples(whole.inputs[:160], whole.targets[:160])  # type: ignore[index]


def inputs(samples: ArraySamples) -> np.ndarray[Any, Any]:
    return np.asarray(samples.inputs, np.float32)


def tiny(folder: Path) -> tuple[Path, Path, Path]:
    """A color classifier, its QDQ file and the images it was calibrated on."""
    model = classifier(folder / "model.onnx")
    np.save(folder / "images.npy", photographs(40, 0))
    made = ptq.quantize(model, folder / "images.npy", out=folder / "int8.onnx", dtype="uint8", method="minmax")
    return model, made.path, folder / "images.npy"


def planted(fault: str, folder: Path) -> Explanation:
    path = folder / "model.onnx"
    train, test = (None, None) if fault in "cegim" else (images("train"), images("test"))
    if fault == "a":
        return explained(folder, digits(path, scaled_channel), train, test)
    if fault == "b":
        return explained(folder, digits(path, shifted_channel), train, test)
    if fault == "c":
        return explained(folder, write_detector(path, "decoded"), pictures(24), pictures(24, 1))
    if fault == "d":
        return explained(folder, digits(path), ArraySamples(inputs(train) / 255), test)  # type: ignore[arg-type]
    if fault == "e":
        swapped = ArraySamples(photographs(100, 0)[:, ::-1].copy())
        return explained(folder, classifier(path), swapped, ArraySamples(photographs(100, 1)))
    if fault == "f":
        return explained(folder, digits(path), ArraySamples(inputs(train)[:3]), test)  # type: ignore[arg-type]
    if fault in "gG":
        constant = -1e4 if fault == "g" else -3e38
        return explained(folder, masked_encoder(path, constant), padded_sentences(40, 0), padded_sentences(40, 1))
    if fault == "j":
        return explained(folder, digits(path, widely_read_channel), train, test)
    if fault in "kl":
        return explained(folder, (spread_channels if fault == "k" else far_from_zero)(path), train, test)
    if fault == "m":
        return explained(folder, normed_encoder(path, 80.0), padded_sentences(40, 0), padded_sentences(40, 1))
    if fault == "h":
        return explained(folder, digits(path), train, test, method="percentile90")
    given = (ArraySamples(photographs(60, seed)) for seed in (0, 1))
    return explained(folder, classifier(path, 7, positive=True), *given, dtype="u8s8")


@pytest.mark.parametrize(
    ("fault", "where", "cause"),
    [
        ("a", "re_lu_1_2", "activation_channels"),
        ("b", "re_lu_1_2", "activation_channels"),
        ("c", "n_row", "joined"),
        ("d", "image", "scaled_inputs"),
        ("e", "x", "swapped_channels"),
        ("f", "", "few_samples"),
        ("g", "masked", "mask"),
        ("h", "", "clipped"),
        ("i", "c1", "saturation"),
        ("j", "stack16_conv2_1", "reading_weights"),
        ("k", "there", "activation_channels"),
        ("l", "there", "offset"),
        ("m", "norm", "activation_channels"),
    ],
)
def test_the_first_sentence_names_the_planted_fault(fault: str, where: str, cause: str, tmp_path: Path) -> None:
    found = planted(fault, tmp_path)
    assert found.findings, found.sentence
    assert (found.findings[0].cause, where in found.findings[0].where) == (cause, True), found.sentence


def edited(path: Path, **changes: Callable[[Any], None]) -> Path:
    """The color classifier with some of its constants changed in place."""
    model = load(classifier(path))
    held = Graph(model.graph).initializers
    for name, change in changes.items():
        values = onnx.numpy_helper.to_array(held[name]).copy()
        change(values)
        held[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, path)
    return path


def test_weights_of_channels_apart_are_told_from_activations(tmp_path: Path) -> None:
    """A channel of weights 60 times as wide that a bias keeps from saying anything: only one scale a tensor is hurt."""

    def widen(weights: Any) -> None:
        weights[2] *= 60

    def silence(bias: Any) -> None:
        bias[2] = -1e4

    path = edited(tmp_path / "model.onnx", w1=widen, b1=silence)
    given = (ArraySamples(photographs(60, seed)) for seed in (0, 1))
    pipeline = Pipeline(Workload("planted", path, *given), Store(tmp_path / "store"))
    found = explain(pipeline, Case("planted", "onnxruntime", "uint8", "minmax", "tensor"))
    assert (found.findings[0].cause, found.findings[0].where) == ("weight_channels", "c1"), found.sentence
    assert "granularity=channel" in found.sentence
    whole = explain(pipeline, Case("planted", "onnxruntime", "uint8", "minmax", "channel"))
    assert "weight_channels" not in {each.cause for each in whole.findings}


def test_an_outlier_that_sets_a_range_is_named(tmp_path: Path) -> None:
    """One pixel of one calibration image is far beyond all others, and in every channel alike."""
    images = photographs(60, 0) / 255
    images[7, :, 3, 3] = 400
    seen = images.copy()
    seen[7, :, 3, 3] = 1

    def back(weights: Any) -> None:
        weights *= 255

    found = explained(tmp_path, edited(tmp_path / "model.onnx", w1=back), ArraySamples(images), ArraySamples(seen))
    assert (found.findings[0].cause, found.findings[0].where) == ("outlier", "x"), found.sentence


def test_features_joined_under_one_scale_are_named_by_their_join(tmp_path: Path) -> None:
    """A Concat of a map and of the same map times 640, undone by the convolution that reads it."""
    node, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    model = load(classifier(tmp_path / "model.onnx"))
    held = Graph(model.graph).initializers
    weights = onnx.numpy_helper.to_array(held["w2"])
    held["w2"].CopyFrom(array(np.concatenate([weights / 640, weights], axis=1).astype(np.float32), "w2"))
    model.graph.initializer.append(array(np.float32(640), "factor"))
    place = next(at for at, each in enumerate(model.graph.node) if each.name == "c2")
    model.graph.node[place].input[0] = "both"
    model.graph.node.insert(place, node("Concat", ["far", "r1"], ["both"], "join", axis=1))
    model.graph.node.insert(place, node("Mul", ["r1", "factor"], ["far"], "widen"))
    onnx.save(model, tmp_path / "model.onnx")
    given = (ArraySamples(photographs(60, seed)) for seed in (0, 1))
    found = explained(tmp_path, tmp_path / "model.onnx", *given)
    assert (found.findings[0].cause, found.findings[0].where) == ("joined", "join"), found.sentence


def test_a_bias_beyond_32_bits_is_named(tmp_path: Path) -> None:
    def huge(bias: Any) -> None:
        bias[0] = -1e12

    given = (ArraySamples(photographs(40, seed)) for seed in (0, 1))
    found = explained(tmp_path, edited(tmp_path / "model.onnx", b1=huge), *given)
    assert "large_bias" in {each.cause for each in found.findings if each.where == "c1"}, found.sentence


def test_constant_calibration_images_are_named(tmp_path: Path) -> None:
    grey = ArraySamples(np.full((40, 3, 16, 16), 128, np.float32))
    found = explained(tmp_path, classifier(tmp_path / "model.onnx"), grey, ArraySamples(photographs(40, 1)))
    assert "is constant in 40 of 40 calibration samples" in found.sentence


def test_a_cause_of_the_model_is_told_before_that_of_the_machine(tmp_path: Path) -> None:
    """A clipped range where sums saturate, too: both are findings, the range comes first."""
    given = (ArraySamples(photographs(60, seed)) for seed in (0, 1))
    model = classifier(tmp_path / "model.onnx", 7, positive=True)
    found = explained(tmp_path, model, *given, dtype="u8s8", method="percentile90")
    assert found.findings[0].cause == "clipped", found.sentence
    assert "saturation" in {each.cause for each in found.findings}


def test_an_attention_mask_of_the_least_float_is_named_too(tmp_path: Path) -> None:
    found = planted("G", tmp_path)
    assert (found.findings[0].cause, found.findings[0].where) == ("mask", "masked"), found.sentence


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_nothing_is_accused_in_the_healthy_digits(dtype: str, method: str, tmp_path: Path) -> None:
    found = explained(tmp_path, digits(tmp_path / "model.onnx"), images("train"), images("test"), dtype, method)
    assert found.sentence.startswith(f"planted-onnxruntime-{dtype}-{method}-channel: no layer stands out"), (
        found.sentence
    )


def test_nothing_is_accused_in_healthy_photographs(tmp_path: Path) -> None:
    given = (ArraySamples(photographs(100, seed)) for seed in (0, 1))
    found = explained(tmp_path, classifier(tmp_path / "model.onnx"), *given)
    assert "no layer stands out (the worst, " in found.sentence


def test_nothing_is_accused_in_a_healthy_encoder(tmp_path: Path) -> None:
    model = normed_encoder(tmp_path / "model.onnx", 1.0)
    assert (
        "no layer stands out" in explained(tmp_path, model, padded_sentences(40, 0), padded_sentences(40, 1)).sentence
    )


def test_a_detector_with_its_head_in_float_is_healthy(tmp_path: Path) -> None:
    path, store = write_detector(tmp_path / "decoded.onnx", "decoded"), Store(tmp_path / "store")
    made = ptq.quantize(path, pictures(100), exclude="auto", dtype="uint8", method="minmax", store=store)
    found = ptq.explain(path, made, pictures(100), store=store)
    assert "no layer stands out" in found.sentence, found.sentence
    assert {row.node for row in found.rows if not row.integer} >= {"n_row0", "n_y", "n_box0"}


def test_an_explanation_is_kept_and_comes_back_as_it_was(tmp_path: Path) -> None:
    model, made, samples = tiny(tmp_path)
    store = Store(tmp_path / "store")
    first = ptq.explain(model, made, samples, store=store)
    assert Explanation.from_json(json.loads(json.dumps(first.as_json()))) == first
    again = ptq.explain(model, made, samples, store=store)
    assert again == first
    assert store.counts["explanation", "made"] == store.counts["explanation", "found"] == 1
    assert first.of == "calibration"
    assert 0.5 < sum(row.time or 0.0 for row in first.rows) <= 1.0 + 1e-9
    assert all(row.time is not None for row in first.rows)
    assert first.sentence.startswith("int8.onnx: no layer stands out")


def test_a_case_of_another_runtime_is_explained_by_a_file_like_it(tmp_path: Path) -> None:
    workload = Workload("planted", digits(tmp_path / "model.onnx", scaled_channel), images("train"), images("test"))
    pipeline = Pipeline(workload, Store(tmp_path / "store"))
    found = explain(pipeline, Case("planted", "torch", "uint8", "minmax", "channel"))
    assert found.sentence.startswith(
        "planted-torch-uint8-minmax-channel: digits_resnet8_1/re_lu_1_2/Relu gives channel 3"
    )
    assert found.notes["explained by"].startswith("planted-onnxruntime-uint8-minmax-channel, a QDQ file")
    assert {row.time for row in found.rows} == {None}
    assert found.notes["time"] == "blank: torch does not say what a node takes"


def test_rows_carry_the_names_of_the_file_that_was_given(tmp_path: Path) -> None:
    """A Conv with its BatchNorm: one layer, known by the Conv, with what was fused into it."""
    helper, array = onnx.helper, onnx.numpy_helper.from_array
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "convolution", kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["y"], "cut"),
    ]
    generator = np.random.default_rng(0)
    held = [array(generator.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")]
    held += [array(np.full(4, value, np.float32), name) for name, value in (("s", 1), ("b", 0.5), ("m", 0), ("v", 1))]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["n", 3, 16, 16])], [value("y", 1, ["n", 4, 14, 14])], held)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    samples = ArraySamples(photographs(20, 0))
    made = ptq.quantize(path, samples, dtype="uint8", method="minmax", store=Store(tmp_path / "store"))
    rows = ptq.explain(path, made, samples, store=Store(tmp_path / "store")).rows
    assert [(row.node, row.fused, row.tensor) for row in rows] == [("convolution", ("norm",), "y")]


@pytest.mark.parametrize("kernel", [3, 7])
def test_saturation_is_predicted_as_the_cpu_has_it(kernel: int, tmp_path: Path) -> None:
    """The prediction needs no such CPU; where there is one, its sums are what was predicted."""
    model, store = classifier(tmp_path / "model.onnx", kernel, positive=True), Store(tmp_path / "store")
    samples = photographs(60, 1)
    made = ptq.quantize(model, samples, dtype="u8s8", method="minmax", store=store)
    seen = samples[::8]
    told = ptq.explain(model, made, seen, store=store).findings
    found = next(each for each in told if (each.cause, each.where) == ("saturation", "c1"))
    assert found.kind == (LAYER if saturates() else MACHINE)
    if not saturates():
        pytest.skip("this CPU adds up in 32 bits, so there is nothing to hold the prediction against")
    proto = load(made.path)
    wanted = ["r1_QuantizeLinear_Output"]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(wanted[0], onnx.TensorProto.UINT8, None))
    exact, real = (
        session(proto.SerializeToString(), optimize=optimize).run(wanted, {"x": seen})[0].astype(float)
        for optimize in (False, True)
    )
    noise, signal = np.square(real - exact).sum(), np.square(exact - exact.mean(axis=(0, 2, 3), keepdims=True)).sum()
    assert found.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.3)


def test_the_command_line_explains_files_and_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PTQ_DATA", raising=False)
    model, made, samples = map(str, tiny(tmp_path))
    page, table = tmp_path / "why.html", tmp_path / "why.json"
    done = CliRunner().invoke(
        commands(), ["explain", model, made, "--calibration", samples, "--html", str(page), "--json", str(table)]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("int8.onnx: no layer stands out (the worst, ")
    assert {"c1", "c2", "g"} <= {row["node"] for row in json.loads(table.read_text())["rows"]}
    text = page.read_text()
    assert text.count("<tr><td>") == len(json.loads(table.read_text())["rows"])
    digest = re.search(r"script-src 'sha256-([^']+)'", text)
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    assert digest
    assert script
    assert base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode() == digest[1]
    case = ["explain", "digits-onnxruntime-uint8-minmax", "--json", str(table)]
    done = CliRunner().invoke(commands(), [*case, "--seconds", "60"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("digits-onnxruntime-uint8-minmax: no layer stands out")
    rows = sorted(json.loads(table.read_text())["rows"], key=lambda row: row["kept"])
    measured = [row for row in rows if row["regained"] is not None]
    assert 1 <= len(measured) <= 3
    assert all(abs(row["regained"]) < 2 and abs(row["lost"] or 0.0) < 2 for row in measured)
    assert any(row["lost"] is not None for row in measured)
    done = CliRunner().invoke(commands(), [*case, "--seconds", "0"])
    assert {row["regained"] for row in json.loads(table.read_text())["rows"]} == {None}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["explain", "nothing-onnxruntime-u8s8"], "no workload is called 'nothing'"),
        (["explain", "digits-onnxruntime-u8s8-median"], "is no case of digits"),
        (["explain", "digits-onnxruntime-fp32"], "is the float model: there is nothing to explain"),
        (["explain", "{model}", "{model}"], "--calibration: should name the samples"),
        (["explain", "{model}", "{model}", "--calibration", "{samples}"], "has no QuantizeLinear"),
    ],
)
def test_what_cannot_be_explained_is_said_in_one_line(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "cache"))
    model = classifier(tmp_path / "model.onnx")
    np.save(tmp_path / "images.npy", photographs(4, 0))
    with pytest.raises(SystemExit) as stopped:
        main([each.format(model=model, samples=tmp_path / "images.npy") for each in arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert line in said


def test_a_red_case_says_why_when_asked(repository: pytest.Pytester) -> None:
    write_model(repository.path / "model.onnx", favour=24)
    (repository.path / "bars.toml").write_text('["mine-*"]\nfloor = 1.0\nwhy = "it favours one class"\n')
    wanted = ("-k", "uint8-minmax and not channel")
    line = "mine-onnxruntime-uint8-minmax: no layer stands out (the worst, "
    assert line in run(repository, *wanted, "--ptq-explain").stdout.str()
    assert line not in run(repository, *wanted).stdout.str()
