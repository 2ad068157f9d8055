"""ONNX to PyTorch: parity, one-line errors, and torchvision in every state."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_cnn

from ptq.errors import BadModel, NotInstalled
from ptq.models import onnx_to_torch
from ptq.models.onnx_to_torch import Parity, convert, graph_module
from ptq.models.torch_file import TorchFile

torch = pytest.importorskip("torch", reason="not installed: pip install 'ptq[torch]'")
onnx = pytest.importorskip("onnx")
if importlib.util.find_spec("onnx2torch") is None:  # not imported: that fails beside a broken torchvision
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
    assert str(parity).startswith("max |torch - onnx| ")
    module = TorchFile.read(out, "float").float_module("tiny")
    said = module(torch.from_numpy(tiny_cnn.images(5)))
    assert said.shape == (5, tiny_cnn.CLASSES)
    again = tmp_path / "again.pt"
    convert(tiny, again)
    assert again.read_bytes() == out.read_bytes(), "bytes depend on the name or the time"
    assert set(torch.load(out, weights_only=True)) == {"format", "kind", "settings", "graph", "state", "qparams"}


def test_a_parity_that_is_off_is_an_error() -> None:
    Parity(1e-6, 1.0, 4, 0, 255).check("m")
    with pytest.raises(BadModel, match=r"m: PyTorch and ONNX differ by 0\.1 on 4 inputs"):
        Parity(0.1, 1.0, 4, 0, 255).check("m")
    with pytest.raises(BadModel):
        Parity(float("nan"), 1.0, 4, 0, 255).check("m")


def test_nothing_is_written_when_the_models_disagree(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(*arguments: object, **named: object) -> object:
        module = graph_module(*arguments, **named)  # type: ignore[arg-type]
        module.get_submodule("logits").bias.data += torch.arange(4.0)
        return module

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
    assert "is not an ONNX model" in refused(tmp_path / "text.onnx", tmp_path)


def test_an_operation_onnx2torch_lacks_is_refused_by_name(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Hardmax", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, ["N", 4])], [value("y", 1, ["N", 4])])
    path = tmp_path / "hardmax.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10), path)
    assert "Hardmax" in refused(path, tmp_path)


def test_an_input_of_varying_size_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, ["N", "H"])], [value("y", 1, ["N", "H"])])
    path = tmp_path / "varies.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10), path)
    assert "should be one of fixed size" in refused(path, tmp_path)


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
    module = graph_module(proto, "g")
    assert [each.op for each in module.graph.nodes] == ["placeholder", "call_module", "output"]
    torch.fx.symbolic_trace(module)
    assert module(torch.zeros(5, 3, 4)).shape == (5, 12)


BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "torchvision":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
STATES = {
    "absent": None,
    "import_error": "raise ImportError('libcudart.so.11: cannot open shared object file')",
    "runtime_error": "raise RuntimeError('operator torchvision::nms does not exist')",
    "half": "import torchvision.extension\n",
    "real": None,
}


@pytest.mark.parametrize("state", STATES)
def test_torchvision_may_be_in_any_state(state: str, tiny: Path, tmp_path: Path) -> None:
    code = BLOCKED if state == "absent" else ""
    path = [*sys.path]
    if (broken := STATES[state]) is not None:
        package = tmp_path / "broken" / "torchvision"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(broken)
        (package / "extension.py").write_text("raise AttributeError('half an import')")
        path.insert(0, str(package.parent))
    if state == "real":
        works = subprocess.run([sys.executable, "-c", "import torchvision.ops"], capture_output=True, check=False)
        if works.returncode:
            pytest.skip("there is no torchvision here that can be imported")
    code += (
        "import sys\nfrom pathlib import Path\nfrom ptq.models.onnx_to_torch import convert\n"
        f"parity = convert(Path({str(tiny)!r}), Path({str(tmp_path / 'out.pt')!r}))\n"
        "assert parity.max_abs < 2e-6\n"
        "print(sorted(each for each in sys.modules if each.partition('.')[0] == 'torchvision')[:1])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("['torchvision']" if state == "real" else "[]"), "a stand-in was left behind"


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
    assert "max |torch - onnx| " in said
    assert "3 torch.nn.modules.conv.Conv2d" in said
    assert "0 of 11 compute nodes run in integer" in said
