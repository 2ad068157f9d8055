"""ONNX to PyTorch: parity, names, several inputs, one-line errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_cnn

from ptq.backends.protocol import FloatModel
from ptq.backends.torch import from_onnx as onnx_to_torch
from ptq.backends.torch.from_onnx import convert, graph_module
from ptq.backends.torch.fx import BACKEND
from ptq.cases import Case
from ptq.data.samples import ArraySamples, FittedSamples
from ptq.errors import BadData, BadModel, NotInstalled, Unsupported
from ptq.models.onnx_file import signature
from ptq.models.parity import Parity
from ptq.models.session import session
from ptq.quantization.calibration import Calibration

torch = pytest.importorskip("torch", reason="not installed: pip install 'ptq[torch]'")
onnx = pytest.importorskip("onnx")
if importlib.util.find_spec("onnx2torch") is None:
    pytest.skip("onnx2torch not installed: pip install 'ptq[torch]'", allow_module_level=True)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    tiny_cnn.write_onnx(path)
    return path


def test_convert_keeps_layout_and_outputs(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.pt"
    parity = convert(tiny, out)
    assert parity.max_abs < 2e-6
    assert str(parity).startswith("max difference ")
    said = BACKEND.load(out)({"x": tiny_cnn.images(5)})
    assert {name: values.shape for name, values in said.items()} == {"p": (5, tiny_cnn.CLASSES)}
    again = tmp_path / "again.pt"
    convert(tiny, again)
    assert again.read_bytes() == out.read_bytes(), "bytes depend on the name or the time"
    assert set(torch.load(out, weights_only=True)) == {"format", "kind", "settings", "graph", "state", "qparams"}


def test_a_parity_that_is_off_is_an_error() -> None:
    Parity(1e-6, 1.0, 1.0, 4, 0, 255).check("m", "PyTorch", "ONNX")
    with pytest.raises(BadModel, match=r"m: PyTorch and ONNX differ by 0\.1 on 4 inputs"):
        Parity(0.1, 1.0, 1.0, 4, 0, 255).check("m", "PyTorch", "ONNX")
    with pytest.raises(BadModel):
        Parity(float("nan"), 1.0, 1.0, 4, 0, 255).check("m", "PyTorch", "ONNX")


def test_parity_is_of_the_output_that_is_off() -> None:
    large, small = np.full((2, 3), 1000.0, np.float32), np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    assert Parity.of([large, small], [large, small], 0, 1).passes
    found = Parity.of([large, small[:, ::-1]], [large, small], 0, 1)
    assert (found.max_abs, found.largest, found.agreement, found.passes) == (1.0, 4.0, 0.0, False)
    assert not Parity.of([large, small * np.nan], [large, small], 0, 1).passes
    assert not Parity.of([large], [large, small], 0, 1).passes


def test_nothing_is_written_when_the_models_disagree(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(*arguments: object, **named: object) -> object:
        graph = graph_module(*arguments, **named)  # type: ignore[arg-type]
        (path,) = [path for path, node in graph.nodes.items() if node.name == "logits"]
        graph.module.get_submodule(path).bias.data += torch.arange(4.0)
        return graph

    monkeypatch.setattr(onnx_to_torch, "graph_module", shifted)
    with pytest.raises(BadModel, match="differ by"):
        convert(tiny, tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def refused(source: Path, tmp_path: Path) -> str:
    with pytest.raises(BadModel) as caught:
        convert(source, tmp_path / "out.pt")
    assert "\n" not in str(caught.value)
    assert source.name in str(caught.value)
    assert not (tmp_path / "out.pt").exists()
    return str(caught.value)


def test_what_is_not_onnx_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.onnx", tmp_path)
    (tmp_path / "text.onnx").write_text("no model\n" * 9)
    assert "not an ONNX model" in refused(tmp_path / "text.onnx", tmp_path)


def test_an_operation_onnx2torch_lacks_is_refused_by_name(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Hardmax", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, ["N", 4])], [value("y", 1, ["N", 4])])
    path = tmp_path / "hardmax.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10), path)
    assert "Hardmax" in refused(path, tmp_path)


def model_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], held: Any = ()) -> Any:
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, list(held))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)


def test_a_model_of_several_inputs_and_dimensions_that_vary(tmp_path: Path) -> None:
    # What a sentence encoder is made of: ids, a mask, an operator onnx2torch has not, an input left out at the end.
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    table = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    held = [onnx.numpy_helper.from_array(table, "table"), onnx.numpy_helper.from_array(np.float32(-0.5), "low")]
    nodes = [
        node("Gather", ["table", "ids"], ["words"], axis=0),
        node("GreaterOrEqual", ["mask", "zero"], ["kept"]),
        node("Cast", ["kept"], ["weight"], to=1),
        node("Unsqueeze", ["weight", "last"], ["column"]),
        node("Mul", ["words", "column"], ["weighted"]),
        node("Clip", ["weighted", "low", ""], ["clipped"]),
        node("ReduceMean", ["clipped"], ["mean"], axes=[1], keepdims=0),
        node("Split", ["mean"], ["first", "rest"], axis=1, split=[2, 3]),
    ]
    held += [onnx.numpy_helper.from_array(np.array(1, np.int64), "zero")]
    held += [onnx.numpy_helper.from_array(np.array([-1], np.int64), "last")]
    nodes[-1] = node("Split", ["mean", "parts"], ["first", "rest"], axis=1)
    held += [onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "parts")]
    inputs = [value("ids", 7, ["N", "L"]), value("mask", 7, ["N", "L"])]
    outputs = [value("rest", 1, ["N", 3]), value("first", 1, ["N", 2]), value("column", 1, ["N", "L", 1])]
    path, out = tmp_path / "words.onnx", tmp_path / "words.pt"
    onnx.save(model_of(nodes, inputs, outputs, held), path)
    assert convert(path, out).passes
    predict = BACKEND.load(out)
    for length in (3, 7):
        batch = {name: np.random.default_rng(length).integers(0, 2, (4, length)) for name in ("mask", "ids")}
        want = session(path).run(["rest", "first", "column"], batch)
        have = predict(batch)
        assert list(have) == ["rest", "first", "column"]
        for mine, theirs in zip(have.values(), want, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-6)
    with pytest.raises(BadData, match="no input 'mask' among 'ids', 'maks'"):
        predict({"ids": batch["ids"], "maks": batch["mask"]})
    assert [tensor.dtype for tensor in BACKEND.signature(out).inputs] == ["int64", "int64"]


def test_a_model_of_a_new_opset_is_said_in_one_that_onnx2torch_knows(tmp_path: Path) -> None:
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    nodes = [
        node("Gelu", ["x"], ["bent"]),
        node("ReduceMean", ["bent", "axes"], ["mean"], keepdims=0),
        node("Reshape", ["mean", "shape"], ["y"]),
    ]
    held = [onnx.numpy_helper.from_array(np.array(data), name) for name, data in (("axes", [2]), ("shape", [-1, 3]))]
    model = model_of(nodes, [value("x", 1, ["n", 3, 5])], [value("y", 1, ["n", 3])], held)
    for opset in (20, 22):
        model.opset_import[0].version = opset
        onnx.save(model, tmp_path / "new.onnx")
        assert convert(tmp_path / "new.onnx", tmp_path / "new.pt", -2, 2).passes

    sampled = [node("GridSample", ["x", "grid"], ["y"], mode="linear")]
    inputs = [value("x", 1, ["n", 1, 4, 4]), value("grid", 1, ["n", 2, 2, 2])]
    model = model_of(sampled, inputs, [value("y", 1, ["n", 1, 2, 2])])
    model.opset_import[0].version = 20
    onnx.save(model, tmp_path / "grid.onnx")
    assert "GridSample', version=20" in refused(tmp_path / "grid.onnx", tmp_path), "its modes had other names before"


def test_what_torch_cannot_quantize_is_said_in_its_own_words(tmp_path: Path) -> None:
    # A shape computed from two dimensions that vary: no tracer can follow it.
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node("Add", ["x", "zeros"], ["y"]),
    ]
    path = tmp_path / "shape.onnx"
    onnx.save(model_of(nodes, [value("x", 1, ["N", "L"])], [value("y", 1, ["N", "L"])]), path)
    samples = FittedSamples(ArraySamples(np.ones((4, 5), np.float32)), signature(path), "calibration")
    calibration = Calibration(samples, dict, {})
    with pytest.raises(Unsupported, match=r"^shape-torch-u8s8-minmax: torch cannot quantize this graph \(.+\)$"):
        BACKEND.quantize(Case("shape", "torch", "u8s8", "minmax"), FloatModel(path, path), calibration, tmp_path / "o")
    assert convert(path, tmp_path / "shape.pt").passes
    onnx.save(model_of([node("Hardmax", ["x"], ["y"])], [value("x", 1, ["N", 4])], [value("y", 1, ["N", 4])]), path)
    with pytest.raises(Unsupported, match=r"^m-torch-fp32: cannot be converted to PyTorch \(.+Hardmax.+\)$"):
        BACKEND.quantize(Case("m", "torch", "fp32"), FloatModel(path, path), calibration, tmp_path / "o")


def test_without_torch_it_says_what_to_install(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(
        NotInstalled, match=r"tiny.onnx: cannot be converted; not installed: pip install 'ptq\[torch\]'"
    ):
        convert(tiny, tmp_path / "out.pt")


def test_a_computed_reshape_becomes_a_constant_one() -> None:
    # What tf2onnx leaves of Flatten: the target is computed from the batch, which no tracer can follow.
    helper = onnx.helper
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"], name="flat"),
    ]
    value = helper.make_tensor_value_info
    constants = {"zero": [0], "one": [1], "rest": [12]}
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", 1, ["N", 3, 4])],
        [value("y", 1, ["N", 12])],
        [onnx.numpy_helper.from_array(np.array(each), name) for name, each in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    module = graph_module(proto, "g").module
    assert [each.op for each in module.graph.nodes] == ["placeholder", "call_module", "output"]
    torch.fx.symbolic_trace(module)
    assert module(torch.zeros(5, 3, 4)).shape == (5, 12)


def test_convert_and_inspect_from_the_command_line(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ptq.cli import main

    out = tmp_path / "tiny.pt"
    for arguments in (["convert", str(tiny), str(out)], ["inspect", str(out)]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "max difference " in said
    assert "3 torch.nn.modules.conv.Conv2d" in said
    assert "0 of 6 compute nodes run in integer" in said
