"""The PT2E backend: integer kernels without a compiler, and words for it where there are none."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_cnn

from ptq.backends.protocol import FloatModel
from ptq.backends.torch import runtime as torch_runtime
from ptq.backends.torch.file import TorchFile
from ptq.backends.torch.from_onnx import graph_module
from ptq.backends.torch.observers import observed, observers
from ptq.backends.torch.pt2e import BACKEND, _torchao
from ptq.cases import Case
from ptq.errors import BadModel

torch = pytest.importorskip("torch", reason="not installed: pip install 'ptq[torch]'")
onnx = pytest.importorskip("onnx")
if importlib.util.find_spec("onnx2torch") is None:
    pytest.skip("onnx2torch not installed: pip install 'ptq[torch]'", allow_module_level=True)
if BACKEND.missing() is not None:
    pytest.skip(f"torchao {BACKEND.missing()}", allow_module_level=True)

U8S8 = Case("tiny", "torch_pt2e", "u8s8", "minmax")


def said(predict: Any, inputs: np.ndarray) -> np.ndarray:
    (values,) = predict({"x": inputs}).values()
    return np.asarray(values)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FloatModel:
    return tiny_cnn.float_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def made(model: FloatModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    out = tmp_path_factory.mktemp("artifact") / "tiny.pt2e"
    return out, dict(BACKEND.quantize(U8S8, model, tiny_cnn.calibration(model), out))


def test_convolutions_residual_and_linear_run_in_integer_kernels(made: tuple[Path, dict[str, str]]) -> None:
    census = BACKEND.census(made[0])
    assert census.simulated is None
    assert census.integer == {"Conv": 3, "Add": 1, "Gemm": 1}
    # After the float Mul: q. For the residual, which the fused kernel takes in float: dq, q. Around the pool, which
    # is float too, and where the reshape was: dq, q, dq, q.
    assert census.float_nodes == ("pool",)
    assert census.stray == 7
    assert made[1]["execution"] == "oneDNN integer kernels"
    assert made[1]["calibration"] == "own observers"


def test_the_state_holds_int8_weights_and_no_float_ones(made: tuple[Path, dict[str, str]]) -> None:
    file = TorchFile.read(made[0], "pt2e")
    assert {each.dtype for each in file.state.values() if each.dim() > 1} == {torch.int8}


def test_the_same_scale_in_every_channel_is_per_tensor(model: FloatModel, tmp_path: Path) -> None:
    spread = {}
    for granularity in ("tensor", "channel"):
        out = tmp_path / f"{granularity}.pt2e"
        BACKEND.quantize(replace(U8S8, granularity=granularity), model, tiny_cnn.calibration(model), out)
        state = TorchFile.read(out, "pt2e").state
        scales = [each for name, each in state.items() if name.startswith("_scale_")]
        assert len(scales) == 4
        spread[granularity] = [len(set(each.tolist())) for each in scales]
    assert spread["tensor"] == [1, 1, 1, 1]
    assert min(spread["channel"]) > 1


def test_ranges_handed_over_are_those_of_the_own_observers_for_minmax(
    model: FloatModel, made: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "percentile.pt2e"
    notes = BACKEND.quantize(replace(U8S8, method="percentile"), model, tiny_cnn.calibration(model), out)
    assert notes["calibration"] == "ptq statistics"
    own, handed = TorchFile.read(made[0], "pt2e").qparams, TorchFile.read(out, "pt2e").qparams
    assert own.keys() == handed.keys()
    assert all(handed[name][0] <= own[name][0] * (1 + 1e-5) for name in own)
    assert sum(handed[name][0] < own[name][0] for name in own) >= 3


def test_what_cannot_be_lowered_is_simulated_and_says_so(
    model: FloatModel, made: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchao.quantization.pt2e.lowering as lowering

    def fail(*_: Any) -> None:
        raise RuntimeError("no kernels here\nsecond line")

    lowered = said(BACKEND.load(made[0]), tiny_cnn.images(6))
    monkeypatch.setattr(lowering, "lower_pt2e_quantized_to_x86", fail)
    out = tmp_path / "simulated.pt2e"
    notes = BACKEND.quantize(U8S8, model, tiny_cnn.calibration(model), out)
    assert notes["execution"] == "simulated: float kernels between q/dq, not lowered (no kernels here second line)"
    assert out.read_bytes() == made[0].read_bytes(), "the artifact depends on the machine that made it"
    census = BACKEND.census(out)
    assert census.simulated is not None
    assert census.integer_share == 0
    assert census.weight_bytes.get("int8", 0) > 2000
    np.testing.assert_allclose(said(BACKEND.load(out), tiny_cnn.images(6)), lowered, atol=0.05)


def test_it_runs_without_a_compiler(made: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    code = (
        "import shutil, sys, numpy as np\n"
        "from pathlib import Path\n"
        "assert not any(shutil.which(each) for each in ('c++', 'g++', 'gcc', 'cc', 'clang', 'clang++'))\n"
        "from ptq.backends.torch.pt2e import BACKEND\n"
        f"path = Path({str(made[0])!r})\n"
        f"inputs = np.load({str(tmp_path / 'inputs.npy')!r})\n"
        "assert BACKEND.census(path).simulated is None\n"
        f"np.save({str(tmp_path / 'said.npy')!r}, BACKEND.load(path)({{'x': inputs}})['p'])\n"
    )
    inputs = tiny_cnn.images(3)
    np.save(tmp_path / "inputs.npy", inputs)
    bare = {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"), "HOME": str(tmp_path)}
    kept = {name: value for name, value in os.environ.items() if name in ("LD_LIBRARY_PATH", "TMPDIR")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **bare, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "said.npy"), said(BACKEND.load(made[0]), inputs))


def test_the_reason_for_uint8_is_in_torchaos_own_words() -> None:
    from torchao.quantization.pt2e import PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationSpec
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

    weight = QuantizationSpec(
        dtype=torch.uint8,
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_channel_affine,
        ch_axis=0,
        is_dynamic=False,
        observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(),
    )
    with torch_runtime.deprecations(), _torchao():
        exported = torch.export.export(torch.nn.Conv2d(3, 4, 1).eval(), (torch.rand(1, 3, 4, 4),)).module()
        quantizer = X86InductorQuantizer()
        quantizer.set_global(replace(BACKEND.configuration("minmax"), weight=weight))
        with pytest.raises(ValueError, match="Unsupported quantization_spec") as raised:
            prepare_pt2e(exported, quantizer)
    reason = BACKEND.unsupported(replace(U8S8, dtype="uint8"))
    assert reason is not None
    start, end = reason.removeprefix("torchao: ").split("...)")
    assert str(raised.value).startswith(start.strip().rstrip(","))
    assert str(raised.value).endswith(end)


def test_a_state_of_another_model_is_refused(made: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    content = torch.load(made[0], weights_only=True)
    missing = dict(list(content["state"].items())[1:])
    path = tmp_path / "wrong.pt2e"
    torch.save({**content, "state": missing}, path)
    with pytest.raises(BadModel, match="its state does not fit its graph") as caught:
        BACKEND.load(path)
    assert "\n" not in str(caught.value)


def test_a_transposed_linear_weight_is_why_parameters_are_made_contiguous(model: FloatModel) -> None:
    # Behind torchao's lowering such a view was read as if it were contiguous: 158 of 932 right, silently.
    proto = onnx.load(model.prepared)
    inputs = torch.from_numpy(tiny_cnn.images(8))
    answers = {}
    for contiguous in (True, False):
        graph = graph_module(proto, "tiny", absorb_pads=True)
        (path,) = [path for path, node in graph.nodes.items() if node.name == "logits"]
        linear = graph.module.get_submodule(path)
        assert linear.weight.is_contiguous()
        if not contiguous:
            linear.weight.data = linear.weight.data.T.contiguous().T
        with torch_runtime.running(1), torch_runtime.deprecations():
            prepared = BACKEND.prepare(graph, "minmax", "channel", (torch.zeros(2, 12, 12, 3),))
            prepared(inputs)
            watched = observers(prepared, BACKEND.keeps)
            converted = BACKEND.convert(prepared, "channel", observed(prepared, watched))
            lowered = BACKEND.runnable(converted, graph, (torch.zeros(2, 12, 12, 3),))
            assert lowered.simulated is None
            one_by_one = torch_runtime.predictor(lowered.module, graph.signature, 1, 1, "tiny")
            answers[contiguous] = said(one_by_one, inputs.numpy()), converted(inputs).numpy()
    right, simulated_right = answers[True]
    assert np.abs(right - simulated_right).max() < 0.05
    wrong, simulated_wrong = answers[False]
    assert np.abs(wrong - simulated_wrong).max() > 0.05, "lowering reads views aright now: the rewrite can go"


def test_inspect_names_nodes_and_operators(made: tuple[Path, dict[str, str]]) -> None:
    operators = [operator for _, operator, _ in BACKEND.inspect(made[0])]
    assert sum("qconv" in each for each in operators) == 3
