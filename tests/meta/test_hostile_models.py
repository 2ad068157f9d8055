"""Hostile and careless model files: what a file holds is text or an error of one line, on every way in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mutants
import numpy as np
import onnx
import pytest
from endless import onnx_loop, write_tflite_while
from foreign import run as run_pytest
from onnx import helper, numpy_helper

from ptq.backends.openvino import BACKENDS as OPENVINOS
from ptq.backends.tflite import BACKENDS as TFLITES
from ptq.cli import main
from ptq.errors import BadModel
from ptq.models import parity, session
from ptq.models.onnx_file import signature
from ptq.workloads.digits import MODEL

(OPENVINO,), (TFLITE,) = OPENVINOS, TFLITES
RUNS = '{0.__class__}" + (__import__("os").system("touch pwned") and "") + "'
NAMES = {
    "code": RUNS,
    "quotes": "'\"`$(touch pwned)",
    "newline": "a\nb\r\nc\u2028d",
    "esc": "\x1b[31mred\x1b]0;t\x07",
    "nul": "a\0b",
    "markup": "[/a][red]x[/]",
    "keyword": "class",
    "dunder": "__class__",
    "unicode": "Ünïﬁ\u202e",
    "long": "a" * 20_000,
    "megabyte": "a" * 10**6,
}
TUNED = ("--seconds", "9", "-o", "t.onnx")
ROUTES = {
    "inspect": ("inspect", "m.onnx"),
    "evaluate": ("evaluate", "m.onnx", "--data", "x.npy", "--targets", "y.npy", "--baseline", "m.onnx"),
    "quantize": ("quantize", "m.onnx", "--data", "x.npy", "--method", "minmax", "-o", "q.onnx"),
    "inspect the result": ("inspect", "q.onnx"),
    "calibrate": ("calibrate", "model", "m.onnx", "--data", "x.npy", "--statistics", "s.json"),
    "show": ("calibrate", "show", "s.json"),
    "compare": ("compare", "m.onnx", "q.onnx", "--seconds", "0.02", "--max-ratio", "1000"),
    "init": ("init", "m.onnx"),
    "few bits": ("quantize", "m.onnx", "--data", "x.npy", "--dtype", "u4s4", "--method", "minmax", "-o", "f.onnx"),
    "explain": ("explain", "m.onnx", "q.onnx", "--calibration", "x.npy", "--json", "e.json", "--html", "e.html"),
    "tune": (
        *["tune", "m.onnx", "--calibration", "x.npy", "--data", "x.npy", "--targets", "y.npy", "--max-drop", "100"],
        *TUNED,
    ),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with x.npy, y.npy and m.onnx; whatever a test does, nothing in a file made a file."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    np.save("x.npy", np.random.default_rng(0).normal(size=(6, 3, 4, 4)).astype(np.float32))
    np.save("y.npy", np.arange(6) % 5)
    onnx.save(model(), "m.onnx")
    yield folder
    assert not list(tmp_path.rglob("pwned*")), "a name ran as code"


def model(name: str | None = None) -> Any:
    """Conv, Relu, Reshape, Gemm; with a name, everything that has one is called so, with a number where it must."""
    generator, count = np.random.default_rng(1), iter(range(100))

    def called(usual: str) -> str:
        return usual if name is None else f"{name}{next(count)}"

    x, c, r, f, y, w, g, s = map(called, ["x", "c", "r", "f", "y", "w", "g", "s"])
    nodes = [
        helper.make_node("Conv", [x, w], [c], name=called("conv"), kernel_shape=[3, 3], doc_string=called("d")),
        helper.make_node("Relu", [c], [r], name=called("relu")),
        helper.make_node("Reshape", [r, s], [f], name=called("flat")),
        helper.make_node("Gemm", [f, g], [y], name=called("gemm")),
    ]
    held = [
        numpy_helper.from_array(generator.normal(size=(4, 3, 3, 3)).astype(np.float32), w),
        numpy_helper.from_array(generator.normal(size=(16, 5)).astype(np.float32), g),
        numpy_helper.from_array(np.array([-1, 16], np.int64), s),
    ]
    ends = [helper.make_tensor_value_info(x, 1, [called("N"), 3, 4, 4])], [helper.make_tensor_value_info(y, 1, None)]
    graph = helper.make_graph(nodes, called("g"), *ends, held, doc_string=called("d"))
    graph.output[0].type.tensor_type.shape.dim.add(dim_param="N")
    graph.output[0].type.tensor_type.shape.dim.add(dim_value=5)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9, producer_name=called("p"))


def ended(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """(exit code, what was said) of a command that may answer, or refuse in one line."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr()
    told = [line for line in said.err.splitlines() if not line.endswith(" ...")]
    assert len(told) == (stop.value.code == 2), told
    assert (said.out + said.err).replace("\n", "").isprintable()
    assert max(map(len, (said.out + said.err).splitlines())) < 1200
    return int(stop.value.code or 0), told[0] if told else said.out


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind == "megabyte" else kind for kind in NAMES]
)
def test_a_name_is_text_on_every_route(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(NAMES[kind]), "m.onnx")
    for route, words in ROUTES.items():
        code, said = ended(capsys, *words)
        assert code == 0, (route, said)
    written: dict[str, Any] = {}
    exec(compile((here / "conftest.py").read_text(), "conftest.py", "exec"), {"__file__": "conftest.py"}, written)
    assert list(written["INPUTS"]) == [f"{NAMES[kind]}0"], "the name whole, and nothing but a name"


@pytest.mark.parametrize("kind", ["code", "markup", "esc"])
def test_a_name_is_text_in_a_run_of_pytest(kind: str, repository: pytest.Pytester) -> None:
    folder = repository.path
    onnx.save(model(NAMES[kind]), folder / "model.onnx")
    np.save(folder / "images.npy", np.random.default_rng(0).normal(size=(30, 3, 4, 4)).astype(np.float32))
    (folder / "conftest.py").write_text(
        "import numpy as np, ptq\n"
        "def pytest_ptq_workloads():\n"
        "    x = np.load('images.npy')\n"
        "    a, b = ptq.ArraySamples(x[:9]), ptq.ArraySamples(x[9:])\n"
        "    return [ptq.Workload('mine', 'model.onnx', a, b, include=mine)]\n"
        "def mine(case):\n"
        "    return case.backend == 'onnxruntime' and case.method in ('none', 'minmax') and case.dtype != 'int8'\n"
    )
    (folder / "bars.toml").write_text('["mine-*"]\nmax_drop = 90\nwhy = "names are tested"\n')
    found = run_pytest(repository, "--pyargs", "ptq.suite", "-m", "accuracy or structure", "--ptq-html", "r.html")
    said = found.stdout.str() + found.stderr.str()
    assert "Traceback" not in said
    assert "INTERNALERROR" not in said
    assert "\x1b]0;" not in said
    assert found.parseoutcomes().get("passed", 0) > 2
    assert not list(folder.glob("pwned*"))


def change(edit: str) -> Any:
    """The model with one thing wrong."""
    made = model()
    exec(edit, {"m": made, "g": made.graph, "helper": helper})
    return made


WRONG = {
    "input type 99": "g.input[0].type.tensor_type.elem_type = 99",
    "input type text": "g.input[0].type.tensor_type.elem_type = 8",
    "input is a sequence": "g.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1",
    "output type 99": "g.output[0].type.tensor_type.elem_type = 99",
    "weight type 99": "g.initializer[0].data_type = 99",
    "no outputs": "del g.output[:]",
    "no inputs": "del g.input[:]",
    "no nodes": "del g.node[:]",
    "no graph": "m.Clear()",
    "no opset": "del m.opset_import[:]",
    "opset of the far future": "m.opset_import[0].version = 2**40",
    "negative opset": "m.opset_import[0].version = -5",
    "no operator": "g.node[1].op_type = ''",
    "strange operator": "g.node[1].op_type = '[/a]\\x1b[31m' + 'x' * 10**6",
    "strange domain": "g.node[1].domain = '[/a]\\x1b[31m' + 'x' * 10**6",
    "weight of terabytes": "g.initializer[0].dims[:] = [2**20, 2**20, 3, 3]",
    "weight below zero": "g.initializer[0].dims[:] = [-1, 3, 3, 3]",
    "weight without numbers": "g.initializer[0].ClearField('raw_data')",
    "made twice": "g.node.add().CopyFrom(g.node[0])",
    "circle": "g.node[0].input[0] = 'f'",
    "padding of terabytes": "g.node[0].attribute.append(helper.make_attribute('pads', [2**20] * 4))",
    "groups of none": "g.node[0].attribute.append(helper.make_attribute('group', 0))",
    "batch of terabytes": "g.input[0].type.tensor_type.shape.dim[0].dim_value = 2**40",
    "nobody makes the output": "g.output[0].name = 'nobody'",
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_one_line(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(change(WRONG[kind]), "m.onnx")
    for route in ("inspect", "evaluate", "quantize"):
        code, said = ended(capsys, *ROUTES[route])
        assert code == 0 or said.startswith("ptq: ")
    assert code == 2, "quantize, at the latest, refuses it"


@pytest.mark.parametrize("word", [b"conv", b"relu", b"c", b"x", b"y", b"w", b"d", b"N", b"kernel_shape", b"Relu"])
def test_a_name_that_is_not_utf_8_is_refused_where_the_file_is_read(
    word: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    length = bytes([len(word)])
    content = model().SerializeToString()
    assert length + word in content
    Path("m.onnx").write_bytes(content.replace(length + word, length + b"\xff" * len(word)))
    for route in ("inspect", "evaluate", "quantize", "init"):
        code, said = ended(capsys, *ROUTES[route])
        assert (code, "m.onnx: not an ONNX model (a name in it is not UTF-8)" in said) == (2, True)


def test_a_loop_that_does_not_end_is_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "SECONDS", 0.3)
    onnx.save(onnx_loop(2**62), "m.onnx")
    assert ended(capsys, *ROUTES["inspect"])[0] == 0
    for words in (ROUTES["evaluate"], ROUTES["quantize"], ROUTES["calibrate"], ("compare", "m.onnx", "m.onnx")):
        code, said = ended(capsys, *words)
        assert (code, "no answer within 0.3 seconds; likely cause: a loop that does not end" in said) == (2, True)


def test_a_loop_that_ends_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(onnx_loop(3), "m.onnx")
    assert ended(capsys, *ROUTES["evaluate"])[0] == 0


def test_a_loop_that_tflite_does_not_leave_is_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file: it ends with one input, and not with the other."""
    pytest.importorskip("ai_edge_litert", reason="not installed: pip install 'ptq[litert]'")
    write_tflite_while(Path("m.tflite"))
    np.save("y.npy", np.zeros(2))
    words = ("evaluate", "m.tflite", "--data", "x.npy", "--targets", "y.npy", "--metric", "top1")
    predict = TFLITE.load(Path("m.tflite"))
    batch = {"x": np.array([1, 3], np.float32)}
    for _ in range(2):
        (answers,) = predict(batch).values()
        assert answers.tolist() == [8, 6]
    monkeypatch.setattr(session, "SECONDS", 2)
    np.save("x.npy", np.zeros(2, np.float32))
    code, said = ended(capsys, *words)
    assert (code, "m.tflite: a batch took more than 2 seconds; likely cause: a loop" in said) == (2, True), said


def test_a_loop_that_openvino_does_not_leave_is_stopped(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="not installed: pip install 'ptq[openvino]'")
    for trips in (3, 2**62):
        onnx.save(onnx_loop(trips), "m.onnx")
        predict = OPENVINO.load(here / "m.onnx")
        monkeypatch.setattr(session, "SECONDS", 30 if trips == 3 else 3)
        if trips == 3:
            assert len(predict({"x": np.load("x.npy")})["y"]) == 6
            continue
        with pytest.raises(BadModel, match=r"m.onnx: a batch took more than 3 seconds"):
            predict({"x": np.load("x.npy")})


def test_what_cannot_run_for_ever_is_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptq.backends.openvino.apart", None)
    pytest.importorskip("openvino", reason="not installed: pip install 'ptq[openvino]'")
    assert len(OPENVINO.load(Path("m.onnx"))({"x": np.load("x.npy")})) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".pt", ".h5", ""])
def test_a_pipe_a_device_or_a_folder_is_no_model(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(f"pipe{suffix}")
    Path(f"folder{suffix}").mkdir()
    for name, fact in ((f"pipe{suffix}", "pipe"), ("/dev/zero", "device"), (f"folder{suffix}", "folder")):
        routes = [[name if word == "m.onnx" else word for word in ROUTES[route]] for route in ("inspect", "evaluate")]
        routes += [
            [name if word == "m.onnx" else word for word in ROUTES[route]] for route in ("quantize", "calibrate")
        ]
        for words in (*routes, ["init", name], ["convert", name, "o.onnx"], ["compare", "m.onnx", name]):
            code, said = ended(capsys, *words)
            assert (code, fact in said) == (2, True), said


def test_what_claims_terabytes_is_refused_before_memory_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ((), ("--data", "x.npy")):
        code, said = ended(capsys, "compare", "m.onnx", "m.onnx", "--batch", "1" + "0" * 12, *more)
        assert (code, "192,000,000,000,000 bytes, but should take at most 1,073,741,824 a call" in said) == (2, True)
    takes = signature(Path("m.onnx"))
    parity.random_inputs(takes)
    monkeypatch.setattr(parity, "LARGEST", 16 * 3 * 4 * 4 * 4 - 1)
    with pytest.raises(BadModel, match="16 samples take 3,072 bytes"):
        parity.random_inputs(takes)


@pytest.mark.parametrize("place", ["m.onnx", "./m.onnx", "../here/m.onnx", "hard.onnx", "link.onnx", "weights.onnx"])
def test_the_model_is_not_overwritten_under_any_name(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(), "m.onnx", save_as_external_data=True, location="weights.onnx", size_threshold=0)
    os.link("m.onnx", "hard.onnx")
    Path("link.onnx").symlink_to("m.onnx")
    before = {path: path.read_bytes() for path in Path().glob("*")}
    calibrate = [("calibrate", "model", "m.onnx", "--data", "x.npy", option, place) for option in ("-o", "--ranges")]
    for words in ((*ROUTES["quantize"][:-1], place), *calibrate, ("convert", "m.onnx", place)):
        code, said = ended(capsys, *words)
        assert (code, f"{Path(place)}: is " in said) == (2, True), said
    assert ended(capsys, "calibrate", "model", "m.onnx", "--data", "x.npy", "--statistics", "x.npy")[0] == 2
    assert {path: path.read_bytes() for path in Path().glob("*")} == before


def test_a_model_with_all_it_holds_in_a_file_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A shape among it, which onnxruntime does not read from there."""
    whole = ended(capsys, *ROUTES["evaluate"])
    onnx.save(model(), "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert ended(capsys, *ROUTES["evaluate"]) == whole
    for route in ("inspect", "quantize", "compare"):
        assert ended(capsys, *ROUTES[route])[0] == 0


@pytest.mark.parametrize(
    ("location", "fact"),
    [
        ("w\0.bin", "is no name of a file"), ("w" * 10**6, "is no name of a file"), ("/etc/passwd", "lies outside"),
        ("../x", "lies outside"), ("\x1b[31m[/a]", "is not there"), ("", "is not there"), (".", "is not there"),
    ],
)  # fmt: skip
def test_a_place_of_weights_is_text(location: str, fact: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = model()
    made.graph.initializer[0].ClearField("raw_data")
    made.graph.initializer[0].data_location = 1
    made.graph.initializer[0].external_data.add(key="location", value=location)
    Path("m.onnx").write_bytes(made.SerializeToString())
    for route in ("inspect", "evaluate", "quantize"):
        code, said = ended(capsys, *ROUTES[route])
        assert (code, said.startswith("ptq: m.onnx: external data '"), fact in said) == (2, True, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_and_a_new_folder(capsys: pytest.CaptureFixture[str]) -> None:
    words = ROUTES["quantize"][:-1]
    assert "/dev/full: cannot be written (No space left on device)" in ended(capsys, *words, "/dev/full")[1]
    assert ended(capsys, *words, "new/folder/q.onnx")[0] == 0
    assert (
        "No space left" in ended(capsys, "calibrate", "model", "m.onnx", "--data", "x.npy", "--ranges", "/dev/full")[1]
    )


def test_a_name_the_locale_cannot_say_is_written_out() -> None:
    Path("m.onnx").rename("mödel.onnx")
    ascii_only = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    call = [
        sys.executable,
        "-c",
        "from ptq.cli import main; main()",
        "evaluate",
        "mödel.onnx",
        *ROUTES["evaluate"][2:6],
    ]
    done = subprocess.run(call, env=ascii_only, capture_output=True, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert b"m\\xf6del.onnx: top1" in done.stdout or b"m\\udcc3\\udcb6del.onnx: top1" in done.stdout


def judged(first: int, last: int) -> dict[int, Any]:
    """What is wrong with each mutant, by number; a worker that a mutant ends is followed by another."""
    wrong: dict[int, Any] = {}
    while first < last:
        done = subprocess.run(
            [sys.executable, mutants.__file__, str(first), str(last)], capture_output=True, text=True, check=False
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        wrong |= {number: found for number, found in lines if found}
        first = lines[-1][0] + 1 if lines else first
        if done.returncode < 0:
            wrong[first] = f"ended by {signal.Signals(-done.returncode).name}"
            first += 1
        elif done.returncode or done.stderr:
            return wrong | {first: f"exit code {done.returncode}: {done.stderr}"}
    return wrong


@pytest.mark.parametrize("count", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_mutant_is_answered_or_refused_in_one_line(count: int) -> None:
    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(judged, (0, count // 2), (count // 2, count))
        assert {number: found for half in halves for number, found in half.items()} == {}


def test_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: object) -> None:
        raise KeyError(words)

    def babbles(words: object) -> None:
        print("a\nb", file=sys.stderr)
        raise SystemExit(2)

    for broken, fact in ((fails, "KeyError"), (babbles, "2 lines")):
        monkeypatch.setattr(mutants, "main", broken)
        assert fact in str(mutants.fault("inspect"))
    content = MODEL.read_bytes()
    places = mutants.structure(content)
    changed = {mutants.mutant(number, content, places) for number in range(20)}
    assert len(changed) > 15
