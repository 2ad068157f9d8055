"""Models nobody here has seen, as owners bring them: a detector of raw grids, a recognizer that answers by time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_ordinary_models import Letters, pipeline, reader, speech

from ptq.backends.batching import in_batches
from ptq.checks.letterbox import check_letterbox
from ptq.checks.preprocessing import checks, subject
from ptq.cli import main
from ptq.data.contract import InputContract
from ptq.data.inputs import read_inputs, samples_of
from ptq.data.letterbox import Recipe
from ptq.data.samples import ArraySamples
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import Registry, reference_case
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import BadData, PtqError
from ptq.gate.bars import load_bars
from ptq.gate.judge import Judge
from ptq.gate.reference import References
from ptq.metrics.detection import MAP
from ptq.metrics.metric import Score
from ptq.metrics.top1 import Top1
from ptq.models.onnx_file import signature
from ptq.models.session import session

SIDE, STRIDES = 64, (8, 16)
RIGHT = Recipe("BGR", high=255, centred=False)


def detector(path: Path) -> Path:
    """Red squares of 8 pixels by the first grid, blue ones of 16 by the second: (box, objectness, two classes)."""
    stem = np.zeros((3, 3, 8, 8), np.float32)
    stem[range(3), range(3)] = 1 / 64 / 255
    held, nodes = [numpy_helper.from_array(stem, "w")], [helper.make_node("Conv", ["x", "w"], ["f0"], strides=[8, 8])]
    nodes.append(helper.make_node("AveragePool", ["f0"], ["f1"], kernel_shape=[2, 2], strides=[2, 2]))
    for level, channel in enumerate((2, 0)):  # of B, G, R
        weights = np.zeros((7, 3, 1, 1), np.float32)
        weights[4], weights[4, channel] = -25, 40
        weights[5 + level], weights[5 + level, channel] = -10, 20
        held.append(numpy_helper.from_array(weights, f"w{level}"))
        held.append(numpy_helper.from_array(np.array([0, 0, 0, 0, -8, -6, -6], np.float32), f"b{level}"))
        nodes.append(helper.make_node("Conv", [f"f{level}", f"w{level}", f"b{level}"], [f"y{level}"], name=f"n{level}"))
    grids = [
        helper.make_tensor_value_info(f"y{level}", TensorProto.FLOAT, [1, 7, SIDE // stride, SIDE // stride])
        for level, stride in enumerate(STRIDES)
    ]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    graph = helper.make_graph(nodes, "detector", [entry], grids, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def write_images(folder: Path, split: str, seed: int) -> None:
    """Twelve images of three sizes, each with a red and a blue square, and COCO's JSON of them."""
    cv2 = pytest.importorskip("cv2", reason="images need OpenCV: pip install 'ptq[coco]'")
    pytest.importorskip("pycocotools", reason="mAP needs pycocotools: pip install 'ptq[coco]'")
    generator = np.random.default_rng(seed)
    (folder / split).mkdir()
    listed, objects = list[Any](), list[Any]()
    for at in range(12):
        width, height = ((64, 48), (128, 96), (32, 64))[at % 3]
        ratio = SIDE / max(width, height)
        image = generator.integers(10, 40, (height, width, 3)).astype(np.uint8)
        for kind, (channel, stride) in enumerate(zip((2, 0), STRIDES, strict=True)):
            x, y = stride * int(generator.integers(2)), stride * kind + 8 * int(generator.integers(1 + kind))
            y = stride * (y // stride)
            box = [x / ratio, y / ratio, stride / ratio, stride / ratio]
            x, y, side = (round(value) for value in box[:3])
            image[y : y + side, x : x + side] = 0
            image[y : y + side, x : x + side, channel] = 230 - 40 * kind
            objects.append(
                {"id": len(objects) + 1, "image_id": at, "category_id": kind, "bbox": box, "area": box[2] ** 2}
            )
        cv2.imwrite(str(folder / split / f"{at:02}.png"), image)
        listed.append({"id": at, "file_name": f"{at:02}.png", "width": width, "height": height})
    names = [{"id": 0, "name": "red"}, {"id": 1, "name": "blue"}]
    content = {"images": listed, "annotations": objects, "categories": names}
    (folder / f"{split}.json").write_text(json.dumps(content))


def decoded(grids: Any) -> dict[str, Any]:
    rows = []
    for grid in grids.values():
        n, _, height, width = grid.shape
        y, x = np.mgrid[:height, :width]
        share = 1 / (1 + np.exp(-grid))
        middle = np.stack([share[:, 0] + x, share[:, 1] + y], axis=1)
        box = np.concatenate([middle, np.exp(grid[:, 2:4])], axis=1) * (SIDE / height)
        rows.append(np.concatenate([box, share[:, 4:5] * share[:, 5:]], axis=1).reshape(n, 6, -1))
    return {"y": np.concatenate(rows, axis=2)}


class Grids(MAP):
    """All that a detector with another decoding needs."""

    def collect(self, outputs: Any, samples: Any) -> Any:
        return super().collect(map(decoded, outputs), samples)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, split in enumerate(("train", "val")):
        write_images(tmp_path, split, seed)
    detector(tmp_path / "m.onnx")
    return tmp_path


def workload(folder: Path, recipe: Recipe, metric: MAP | None = None) -> Workload:
    from ptq.data.coco import read_coco

    calibration, evaluation = (
        read_coco(folder / split, folder / f"{split}.json", SIDE, recipe) for split in ("train", "val")
    )
    contract = InputContract((1, 3, SIDE, SIDE), "NCHW", low=0, high=255, channel_mean=(60, 55, 50))
    return Workload(
        "mine", folder / "m.onnx", calibration, evaluation, contract, metric or Grids(),
        invariants={"letterbox": check_letterbox},
        include=lambda case: case.id in ("mine-onnxruntime-fp32", "mine-onnxruntime-uint8-minmax"),
    )  # fmt: skip


def judged(folder: Path, workload: Workload) -> dict[str, Any]:
    bars = folder / "bars.toml"
    bars.write_text('["*"]\nwhy = "a test"\nmax_drop = 2.0\n')
    judge = Judge([workload], load_bars(bars), References(folder / "reference.json"), Store(folder / "store"))
    return {case.id: judge.result(case) for case in judge.cases()}


def complaints(folder: Path, workload: Workload) -> dict[str, str]:
    """What the preprocessing checks say, by check."""
    looked, found = subject(Pipeline(workload, Store(folder / "store"), Registry())), {}
    for check in checks():
        try:
            check.run(looked)
        except BadData as error:
            found[check.name] = str(error)
        except PtqError:
            continue
    return found


def test_a_detector_of_raw_grids_bgr_and_top_left_is_judged(folder: Path) -> None:
    found = judged(folder, workload(folder, RIGHT))
    assert len(found) == 2
    assert all(each.value > 0.99 and not each.red for each in found.values()), found
    assert complaints(folder, workload(folder, RIGHT)) == {}


def test_another_order_or_range_or_place_is_named(folder: Path) -> None:
    said = complaints(folder, workload(folder, Recipe("RGB", 255, centred=False)))
    assert set(said) == {"channels"}
    assert "RGB where BGR should be" in said["channels"]
    said = complaints(folder, workload(folder, Recipe("BGR", centred=False)))
    assert "divided by 255" in said["range"]
    moved = workload(folder, RIGHT)
    object.__setattr__(moved.evaluation, "read", workload(folder, Recipe("BGR", 255)).evaluation.read)  # type: ignore[union-attr]
    assert "not at the top left" in complaints(folder, moved)["invariants"]
    with pytest.raises(BadData, match=r"order='bgr', but should be RGB or BGR"):
        Recipe("bgr")


def test_a_detector_that_finds_nothing_is_no_reference(folder: Path) -> None:
    """Nothing drops where nothing is: the float model itself is at fault."""
    for each in judged(folder, workload(folder, Recipe("BGR", centred=False))).values():
        assert each.red
        assert "the float model's map50_95 is 0.0000 on 12 samples, no better than chance" in each.reason


def test_a_detector_that_is_not_decoded_says_what_to_do(folder: Path) -> None:
    with pytest.raises(BadData, match=r"should be \(n, 6, places\).*derive from MAP"):
        judged(folder, workload(folder, RIGHT, MAP()))


def by_time(path: Path, names: tuple[Any, ...] = ("w", "n", 20)) -> Path:
    """A recognizer that answers (time, sample, letter)."""
    model = onnx.load(reader(path))
    model.graph.node[-1].output[0] = "rows"
    model.graph.node.append(helper.make_node("Transpose", ["rows"], ["y"], name="time", perm=[1, 0, 2]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, list(names)))
    onnx.save(model, path)
    return path


def words(count: int = 24) -> list[Any]:
    generator = np.random.default_rng(3)
    return [
        generator.normal(size=(3, 16, int(width))).astype(np.float32) for width in generator.integers(12, 20, count)
    ]


class Read(Letters):
    """Held against the letters the samples bring along."""

    def score(self, predictions: Any, samples: Any) -> Score:
        right = (predictions["letters"] == samples.targets).all(axis=1).astype(float)
        return Score(float(right.mean()), len(right), None, {}, right)


def test_a_recognizer_that_answers_by_time_is_read_sample_by_sample(tmp_path: Path) -> None:
    path, images = by_time(tmp_path / "m.onnx"), words()
    said = [session(path).run(["y"], {"x": image[None]})[0][:, 0].argmax(axis=-1) for image in images]
    truth = np.array([np.pad(row, (0, 64 - len(row)), constant_values=-1) for row in said])
    asked = pipeline(path, ArraySamples(images, truth), Read())
    assert signature(path).outputs[0].axis == 1
    assert asked.measured(reference_case("mine"), 0.95).compared.score.value == 1


@pytest.mark.parametrize(
    ("names", "axis"), [(("n", "w", 20), 0), (("w", "n", 20), 1), (("w", "n", "n"), 0), ((None, None, 20), 0)]
)
def test_the_axis_of_samples_is_moved_only_where_names_say_so(tmp_path: Path, names: Any, axis: int) -> None:
    assert signature(by_time(tmp_path / "m.onnx", names)).outputs[0].axis == axis


def test_a_time_without_a_name_is_one_line(tmp_path: Path) -> None:
    asked = pipeline(by_time(tmp_path / "m.onnx", (None, None, 20)), ArraySamples(words()), Letters())
    with pytest.raises(BadData, match=r"outputs of \d+ samples, but should be 24.*export it with that dimension named"):
        asked.measured(reference_case("mine"), 0.95)


def test_what_a_recognizer_should_read_is_text_from_files_too(tmp_path: Path) -> None:
    for at, image in enumerate(words(4)):
        np.savez(tmp_path / f"{at}.npz", x=image[None], targets=np.array(["abc"[: at + 1]]))
    assert read_inputs(tmp_path).targets.tolist() == ["a", "ab", "abc", "abc"]
    assert samples_of((words(4), list("abcd")), signature(reader(tmp_path / "m.onnx"))).targets.tolist() == [
        "a",
        "b",
        "c",
        "d",
    ]
    with pytest.raises(BadData, match="should be an array of numbers"):
        samples_of(np.array(["a", "b"]))
    for at, image in enumerate(words(4)):
        np.savez(tmp_path / f"{at}.npz", x=image)
    with pytest.raises(BadData, match=r"one sample without a batch dimension, .*signature="):
        pipeline(tmp_path / "m.onnx", read_inputs(tmp_path), Letters()).measured(reference_case("mine"), 0.95)
    asked = pipeline(tmp_path / "m.onnx", ArraySamples(words(4), list("abcd")), Top1())
    with pytest.raises(BadData, match=r"should be \(4, classes\) for top1: another truth .*metric="):
        asked.measured(reference_case("mine"), 0.95)


def test_a_batch_of_one_that_is_full_is_not_cut() -> None:
    """Nor where the answer has its time first."""
    predict = in_batches(lambda batch: {"y": np.zeros((7, 1, 20))}, 1)
    assert predict({"x": np.zeros((1, 3))})["y"].shape == (7, 1, 20)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("pass", "metric mine: has no score"),
        ("\n    def score(self, predictions, samples):\n        return predictions['z']", "line 5: KeyError: 'z'"),
        ("\n    def score(self, predictions, samples):\n        return 0.5", "AttributeError: 'float' object"),
    ],
)
def test_what_a_metric_of_ones_own_raises_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str, said: str
) -> None:
    path = by_time(tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.stack([np.zeros((3, 16, 12), np.float32)] * 4), targets=np.array(list("abcd")))
    (tmp_path / "own.py").write_text(
        f"import ptq\nclass Own(ptq.Metric):\n    name = 'mine'{body.replace('pass', '')}\n"
    )
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(path), "--data", str(tmp_path / "x.npz"), "--baseline", str(path),
              "--metric", f"{tmp_path / 'own.py'}:Own"])  # fmt: skip
    assert stop.value.code == 2
    assert said in (lines := capsys.readouterr().err.strip().splitlines())[-1]
    assert lines[-1].startswith("ptq: metric ")


def test_ptq_init_asks_for_the_constants_of_a_stateful_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = np.random.default_rng(0).normal(size=(24, 64)).astype(np.float32)
    speech(tmp_path / "m.onnx"), np.savez(tmp_path / "x.npz", frame=frames)
    with pytest.raises(SystemExit) as stop:
        main(["quantize", "m.onnx", "--calibration", "x.npz", "-o", "q.onnx"])
    assert stop.value.code == 2
    assert "(1, None, 16), dtype='float32', constant=...) in the conftest.py that `ptq init`" in capsys.readouterr().err
    with pytest.raises(BadData, match=r"'sr' is a single number, .*InputContract\(\.\.\., constant=\)"):
        samples_of({"frame": frames, "sr": np.array(16000)}, signature(tmp_path / "m.onnx"))
    with pytest.raises(SystemExit) as stop:
        main(["init", "m.onnx", "--data", "x.npz"])
    assert not stop.value.code
    text = Path("conftest.py").read_text().replace('EVALUATION = "TODO"', 'EVALUATION = "x.npz"')
    for left, number in (("'state'", "0"), ("'sr'", "16000")):
        with pytest.raises(PtqError, match=f"input {left}: constant= is TODO"):
            written(text)
        text = text.replace('constant="TODO"', f"constant={number}", 1)
    (workload,) = written(text)
    assert workload.contract["state"] == InputContract((1, None, 16), batch_axis=1, constant=0)
    asked = Pipeline(workload, Store(tmp_path / "store"), Registry())
    assert asked.measured(reference_case("m"), 0.95).compared.score.n == 24


def written(text: str) -> Any:
    """The workloads of a conftest.py."""
    space: dict[str, Any] = {"__file__": str(Path("conftest.py").resolve())}
    exec(compile(text, "conftest.py", "exec"), space)
    return space["pytest_ptq_workloads"]()
