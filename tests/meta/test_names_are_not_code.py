"""A name in a file never becomes code: onnx2torch makes module names of it, torch.fx pastes those into Python."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.backends.protocol import FloatModel
from ptq.backends.torch import fx, plain, pt2e
from ptq.backends.torch.file import TorchFile
from ptq.backends.torch.from_onnx import convert, graph_module
from ptq.backends.torch.runtime import predictor
from ptq.cases import Case
from ptq.data.samples import ArraySamples, FittedSamples
from ptq.errors import BadModel
from ptq.models.onnx_file import signature
from ptq.quantization.calibration import Calibration
from ptq.quantization.method import Method

torch = pytest.importorskip("torch", reason="not installed: pip install 'ptq[torch]'")
onnx = pytest.importorskip("onnx")
if importlib.util.find_spec("onnx2torch") is None:
    pytest.skip("onnx2torch not installed: pip install 'ptq[torch]'", allow_module_level=True)
if pt2e.BACKEND.missing() is not None:
    pytest.skip(f"torchao {pt2e.BACKEND.missing()}", allow_module_level=True)

RUNS = (
    '" + (getattr(__import__("os"),"system")("touch pwned") and "" or '
    'next(m for m in getattr(self,"_modules") if "__import__" in m)) + "'
)
NAMES = {
    "runs": RUNS,
    "newline": '")\n    getattr(__import__("os"),"system")("touch pwned")\n    print("',
    "top level": '", 0)\ngetattr(__import__("os"),"system")("touch pwned")\n("',
    "comment": '# \r getattr(__import__("os"),"system")("touch pwned")',
    "braces": '{__import__("os").system("touch pwned")}',
    "quotes": "\"'\\'\"",
    "megabyte": "a" * 1_000_000,
    "control": "\x00\x1b[31m\u202e\u2028",
    "slashes": "/model.1/conv//Conv",
    "spaces": "  ",
    "empty": "",
    **{each: each for each in ("class", "None", "__class__", "__init__", "forward", "training", "_modules", "self")},
    **{
        each: each
        for each in (
            "\uff46\uff4f\uff52\uff57\uff41\uff52\uff44",
            "ﬁ",
            "Ünïcode",
            "initializers",
            "onnx_initializer_0",
            "n0",
            "t0",
            "input_1",
        )
    },
}
"""By what is bad about it; "runs" is code in onnx2torch 1.5.15 as it comes."""

PLACES = ("node", "tensor", "input", "output", "constant", "dimension", "graph", "doc", "metadata", "producer")
"""What of a model has a name that may be anything."""

PLAIN = {"input": "x", "output": "y"}
INPUTS = np.random.default_rng(0).normal(size=(6, 3, 4, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test does, no name made a file."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.glob("pwned*")) == [], "a name ran as code"


def model_of(name: str = "", places: tuple[str, ...] = (), everywhere: bool = False) -> Any:
    """Conv, Relu, Reshape, Gemm, Split; those of `places` are called `name`, with a count where names must differ."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    taken: list[str] = []

    def called(place: str, usual: str) -> str:
        if place not in places and not everywhere:
            return usual
        taken.append(place)
        alone = place in ("node", "dimension", "graph", "doc", "metadata", "producer")
        return name if (alone and not everywhere) or len(taken) == 1 else f"{name}{len(taken)}"

    generator = np.random.default_rng(1)
    x, conv, relu, target, flat = (called("tensor", each) for each in ("x0", "c", "r", "target", "f"))
    x = called("input", PLAIN["input"])
    y, w, b = called("output", PLAIN["output"]), called("constant", "w"), called("constant", "b")
    gemm = called("constant", "g")
    held = [
        numpy_helper.from_array(generator.normal(size=(4, 3, 3, 3)).astype(np.float32), w),
        numpy_helper.from_array(generator.normal(size=4).astype(np.float32), b),
        numpy_helper.from_array(generator.normal(size=(16, 5)).astype(np.float32), gemm),
        numpy_helper.from_array(np.array([-1, 16], np.int64), target),
    ]
    nodes = [
        helper.make_node("Conv", [x, w, b], [conv], name=called("node", "conv"), kernel_shape=[3, 3]),
        helper.make_node("Relu", [conv], [relu], name=called("node", "relu")),
        helper.make_node("Reshape", [relu, target], [flat], name=called("node", "flat")),
        helper.make_node("Gemm", [flat, gemm], [y], name=called("node", "gemm"), doc_string=called("doc", "d")),
    ]
    n = called("dimension", "N")
    graph = helper.make_graph(
        nodes,
        called("graph", "g") or "g",
        [helper.make_tensor_value_info(x, 1, [n, 3, 4, 4])],
        [helper.make_tensor_value_info(y, 1, [n, 5])],
        held,
        doc_string=called("doc", "d"),
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9, producer_name=called("producer", "p"))
    if "metadata" in places or everywhere:
        helper.set_model_props(model, {name: name})
        model.graph.node[0].metadata_props.add(key=name, value=name)
    return model


def answer(model: Any) -> tuple[Any, str]:
    """A graph, or None and why there is none."""
    try:
        return graph_module(model, "model.onnx"), ""
    except BadModel as refused:
        return None, str(refused)


def run(graph: Any, inputs: np.ndarray = INPUTS) -> np.ndarray:
    predict = predictor(graph.module, graph.signature, None, 1, "m")
    (values,) = predict({graph.signature.inputs[0].name: inputs}).values()
    return np.asarray(values)


def test_the_name_runs_where_nothing_is_done_about_it(tmp_path: Path) -> None:
    """Else the tests below prove nothing."""
    import onnx2torch

    module = onnx2torch.convert(model_of(RUNS, ("node",)))
    module(torch.from_numpy(INPUTS))
    assert (tmp_path / "pwned").exists()
    (tmp_path / "pwned").unlink()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", NAMES)
def test_any_name_anywhere_works_or_is_refused_in_one_line(kind: str, place: str) -> None:
    model = model_of(NAMES[kind], (place,))
    graph, refused = answer(model)
    if graph is None:
        assert refused.startswith("model.onnx: ")
        assert len(refused) < 400
        assert refused.isprintable()
        assert (kind, place) in {("empty", each) for each in ("tensor", "input", "output", "constant")}, refused
        return
    np.testing.assert_array_equal(run(graph), run(graph_module(model_of(), "model.onnx")))
    for shown in (node.name for node in graph.nodes.values()):
        assert shown.isprintable()
        assert 0 < len(shown) <= 80


@settings(max_examples=100)
@given(st.text(), st.sets(st.sampled_from(PLACES)))
def test_any_text_is_as_good_as_any_other(name: str, places: set[str]) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return  # protobuf takes none
    graph, refused = answer(model_of(name, tuple(places)))
    if graph is None:
        assert refused.isprintable()
        return
    strings = {str(node.target) for node in graph.module.graph.nodes if node.op.startswith("call")}
    assert all(plain.OURS.fullmatch(each) for each in strings)
    assert run(graph).shape == (6, 5)


MINE = Method("mine", choose=lambda bounds, _: bounds, needs=frozenset({"extremes"}))


def quantized(backend: Any, model: Path, out: Path) -> Path:
    """By ranges handed over, each tensor with one of its own."""
    proto = onnx.load(model)
    tensors = [proto.graph.input[0].name, *(name for node in proto.graph.node for name in node.output)]
    ranges = {name: (-1.0 - at, 4.0 + at) for at, name in enumerate(tensors)}
    samples = FittedSamples(ArraySamples(INPUTS), signature(model), "calibration")
    calibration = Calibration(samples, lambda: ranges, {"mine": MINE})
    notes = backend.quantize(Case("m", backend.name, "u8s8", "mine"), FloatModel(model, model), calibration, out)
    assert notes["calibration"] == "ptq statistics", "a range did not find its observer"
    return out


@pytest.mark.parametrize(
    ("backend", "kind"),
    [(fx.BACKEND, kind) for kind in ("runs", "newline", "megabyte", "forward", "quotes", "control")]
    + [(pt2e.BACKEND, "runs")],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_the_whole_way_through_a_backend(kind: str, backend: Any, tmp_path: Path) -> None:
    made = {}
    for name, model in {"evil": model_of(NAMES[kind], everywhere=True), "good": model_of()}.items():
        path, out = tmp_path / f"{name}.onnx", tmp_path / f"{name}{backend.suffix(None)}"
        onnx.save(model, path)
        made[name] = quantized(backend, path, out)
        assert convert(path, tmp_path / f"{name}.float.pt").passes
    entry = backend.signature(made["evil"]).inputs[0].name
    assert entry.startswith(NAMES[kind]), "a user's own names come back"
    evil, good = (TorchFile.read(made[name], "fx", "pt2e") for name in ("evil", "good"))
    assert evil.qparams == good.qparams
    assert list(evil.state) == list(good.state)
    for artifact in (made, {name: tmp_path / f"{name}.float.pt" for name in made}):
        (mine,) = backend.load(artifact["evil"])({entry: INPUTS}).values()
        (theirs,) = backend.load(artifact["good"])({"x": INPUTS}).values()
        np.testing.assert_array_equal(mine, theirs)
        ours, usual = backend.census(artifact["evil"]), backend.census(artifact["good"])
        assert (ours.integer, ours.floating, ours.stray) == (usual.integer, usual.floating, usual.stray)
        assert ours.simulated is None
        for row in backend.inspect(artifact["evil"]):
            assert all(part.isprintable() or not part for part in row)
            assert len(row[0]) < 120
        assert all(name.isprintable() for name in ours.float_nodes)


# Files whose names torch itself would have written.


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    onnx.save(model_of(), folder / "m.onnx")
    convert(folder / "m.onnx", folder / "m.float")
    return {
        "float": folder / "m.float",
        "fx": quantized(fx.BACKEND, folder / "m.onnx", folder / "m.pt"),
        "pt2e": quantized(pt2e.BACKEND, folder / "m.onnx", folder / "m.pt2e"),
    }


def crafted(source: Path, out: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = torch.load(source, weights_only=True)
        change(content)
        buffer = io.BytesIO()
        torch.save(content, buffer)
    out.write_bytes(buffer.getvalue())
    return out


def with_graph(edit: Callable[[Any], object]) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> None:
        model = onnx.ModelProto.FromString(content["graph"].numpy().tobytes())
        edit(model)
        content["graph"] = torch.from_numpy(np.frombuffer(model.SerializeToString(), np.uint8).copy())

    return change


def external(model: Any) -> None:
    """A weight that is a file of whoever loads the model."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


def huge(model: Any) -> None:
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].dims[:] = [2**20, 2**20, 3, 3]


def body(model: Any) -> None:
    model.graph.node[0].attribute.add(name="body", type=5).g.SetInParent()


CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "state key": ("no name ptq gave", lambda content: content["state"].update({RUNS: torch.zeros(1)})),
    "state megabyte": ("no name ptq gave", lambda content: content["state"].update({"a" * 10**6: torch.zeros(1)})),
    "observer": ("no name ptq gave", lambda content: content["qparams"].update({RUNS: [1.0, 0]})),
    "kind": ("holds a model of kind", lambda content: content.update(kind=RUNS + "\n")),
    "domain": ("domain", with_graph(lambda model: setattr(model.graph.node[0], "domain", RUNS))),
    "operator": ("operator", with_graph(lambda model: setattr(model.graph.node[0], "op_type", RUNS))),
    "unknown operator": ("cannot be converted", with_graph(lambda m: setattr(m.graph.node[0], "op_type", "Nope"))),
    "attribute": ("attribute", with_graph(lambda m: setattr(m.graph.node[0].attribute[0], "name", RUNS))),
    "subgraph": ("(g), which torch is not given", with_graph(body)),
    "opset": ("no version of ONNX's own", with_graph(lambda m: setattr(m.opset_import[0], "domain", RUNS))),
    "made twice": ("is made twice", with_graph(lambda m: m.graph.node.add().CopyFrom(m.graph.node[0]))),
    "out of order": ("before anything makes it", with_graph(lambda m: m.graph.node[0].input.__setitem__(0, "r"))),
    "external": ("lie in another file; refused", with_graph(external)),
    "huge": ("bytes of weights, but its state has", with_graph(huge)),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["float", "fx", "pt2e"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_crafted_artifact_is_refused_in_one_line(
    change: str, kind: str, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    fact, edit = CHANGES[change]
    path = crafted(artifacts[kind], tmp_path / "crafted.pt", edit)
    backend = pt2e.BACKEND if kind == "pt2e" else fx.BACKEND
    for act in (backend.load, backend.census, backend.inspect):
        with pytest.raises(BadModel) as refused:
            act(path)
        assert fact in str(refused.value)
        assert str(refused.value).startswith(f"{path}: ")
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize("kind", ["float", "fx", "pt2e"])
def test_a_name_in_the_graph_of_an_artifact_is_no_code(kind: str, artifacts: dict[str, Path], tmp_path: Path) -> None:
    def rename(model: Any) -> None:
        for node in model.graph.node:
            node.name = RUNS

    path = crafted(artifacts[kind], tmp_path / "crafted.pt", with_graph(rename))
    backend = pt2e.BACKEND if kind == "pt2e" else fx.BACKEND
    (mine,), (theirs,) = (backend.load(each)({"x": INPUTS}).values() for each in (path, artifacts[kind]))
    np.testing.assert_array_equal(mine, theirs)
    backend.census(path)
    assert any('getattr(__import__("os")' in row[0] for row in backend.inspect(path)), "shown as text"


# The two locks, each alone.


def test_what_the_writer_forgets_is_found_before_torch_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain._Writer, "made", lambda self, name: self.tensors.setdefault(name, name))
    with pytest.raises(BadModel, match="would become code in torch; refused"):
        graph_module(model_of(RUNS, ("tensor",)), "m")


def test_every_string_of_a_message_is_looked_at() -> None:
    evil = model_of(RUNS, everywhere=True)
    assert len(list(plain.strangers(evil))) > 20
    for place in PLACES:
        assert list(plain.strangers(model_of(RUNS, (place,)))), place
    assert list(plain.strangers(model_of())) == []


@pytest.mark.parametrize("name", [each for each in NAMES.values() if not plain.OURS.fullmatch(each[:500])])
def test_a_path_that_is_no_path_is_refused(name: str) -> None:
    plain.require_plain(["n0", "n0.weight", "initializers.onnx_initializer_0", "n1.0._packed_params"], "m")
    with pytest.raises(BadModel, match="no name ptq gave"):
        plain.require_plain(["n0", name], "m")


def test_outputs_that_are_not_alone_in_their_node() -> None:
    """onnx2torch returns nodes: an output that is one of two, is the input, or is listed twice would be another's."""
    helper = onnx.helper
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1), helper.make_node("Relu", ["a"], ["r"])],
        "g",
        [value("x", 1, ["N", 5])],
        [value(name, 1, ["N", size]) for name, size in (("b", 3), ("x", 5), ("r", 2), ("a", 2))],
        [onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "sizes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    inputs = np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)
    made = graph_module(model, "m")
    said = predictor(made.module, made.signature, None, 1, "m")({"x": inputs})
    want = {"b": inputs[:, 2:], "x": inputs, "r": np.maximum(inputs[:, :2], 0), "a": inputs[:, :2]}
    assert list(said) == list(want)
    for name, values in want.items():
        np.testing.assert_array_equal(said[name], values)
