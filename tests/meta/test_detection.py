"""mAP: decoding, suppression, COCO's own numbers, and an interval that means what it says."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.data.coco import CocoImages, Truth
from ptq.data.samples import ArraySamples
from ptq.errors import BadData
from ptq.metrics.average_precision import average_precision, bias_corrected, bootstrap_weights, mean_average_precision
from ptq.metrics.detection import MAP, _match
from ptq.metrics.metric import Predictions
from ptq.metrics.nms import detections

pytest.importorskip("cv2", reason="detection needs OpenCV: pip install 'ptq[coco]'")
pytest.importorskip("pycocotools", reason="detection needs pycocotools: pip install 'ptq[coco]'")

NAMES = ("cat", "dog", "bird")


def truth(boxes: list[list[float]], classes: list[int], crowds: list[bool] | None = None) -> Truth:
    corners = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return Truth(
        width=320,
        height=240,
        boxes=corners,
        classes=np.array(classes, dtype=np.int64),
        areas=(corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]),
        crowds=np.array(crowds if crowds is not None else [False] * len(classes), dtype=np.bool_),
    )


def samples(*truths: Truth) -> CocoImages:
    return CocoImages(tuple(Path(f"{each}.jpg") for each in range(len(truths))), class_names=NAMES, truths=truths)


def output(*rows: tuple[float, float, float, float, int, float], places: int = 50) -> np.ndarray:
    """One image's raw output: (centre x, centre y, width, height, class, score) a place."""
    made = np.zeros((4 + len(NAMES), places), dtype=np.float32)
    for place, (x, y, width, height, label, score) in enumerate(rows):
        made[:4, place] = x, y, width, height
        made[4 + label, place] = score
    return made


def said(images: list[int], boxes: list[list[float]], scores: list[float], classes: list[int]) -> Predictions:
    return {
        "images": np.array(images, dtype=np.int32),
        "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
        "scores": np.array(scores, dtype=np.float32),
        "classes": np.array(classes, dtype=np.int32),
        "probe": np.zeros((1, 2), dtype=np.float32),
    }


def crowd_of(generator: np.random.Generator, images: int) -> tuple[CocoImages, Predictions]:
    """Random objects, some of them crowds, and detections near some of them."""
    truths, found = [], ([], [], [], [])
    for image in range(images):
        count = int(generator.integers(0, 6))
        corner = generator.uniform(0, 150, (count, 2))
        boxes = np.concatenate([corner, corner + generator.uniform(5, 80, (count, 2))], axis=1)
        classes = generator.integers(0, len(NAMES), count)
        truths.append(truth(boxes.tolist(), classes.tolist(), (generator.random(count) < 0.15).tolist()))
        for box, label in zip(boxes, classes, strict=True):
            for _ in range(int(generator.integers(0, 4))):
                found[0].append(image)
                found[1].append((box + generator.normal(0, 4, 4)).tolist())
                found[2].append(float(np.round(generator.random(), 2)))  # with ties
                found[3].append(int(label if generator.random() < 0.8 else generator.integers(0, len(NAMES))))
    return samples(*truths), said(*found)


def test_suppression_is_within_a_class_only() -> None:
    raw = output((100, 100, 40, 40, 0, 0.9), (102, 100, 40, 40, 0, 0.8), (100, 100, 40, 40, 1, 0.7))
    found = detections(raw, confidence=0.001, iou=0.7, limit=300)
    assert found.classes.tolist() == [0, 1]
    assert found.scores == pytest.approx([0.9, 0.7])
    assert found.boxes[0].tolist() == [80, 80, 120, 120]


@pytest.mark.parametrize(("shift", "kept"), [(7, 1), (8, 2)])
def test_suppression_starts_above_the_threshold(shift: float, kept: int) -> None:
    # Width 40, moved by 7: 33 / 47 = 0.702; by 8: 32 / 48 = 0.667.
    raw = output((100, 100, 40, 40, 2, 0.9), (100 + shift, 100, 40, 40, 2, 0.8))
    assert len(detections(raw, 0.001, 0.7, 300).scores) == kept


def test_limit_keeps_the_best_and_confidence_is_exclusive() -> None:
    rows = [(20.0 * each, 50.0, 10.0, 10.0, 0, 0.01 * (each + 1)) for each in range(20)]
    found = detections(output(*rows), 0.05, 0.7, 300)
    assert len(found.scores) == 15
    assert detections(output(*rows), 0.05, 0.7, 3).scores == pytest.approx([0.2, 0.19, 0.18])


def test_one_place_may_be_two_classes_and_none_is_no_box() -> None:
    raw = output((100, 100, 40, 40, 0, 0.9))
    raw[5, 0] = 0.6
    assert detections(raw, 0.001, 0.7, 300).classes.tolist() == [0, 1]
    empty = detections(np.zeros((7, 50), dtype=np.float32), 0.001, 0.7, 300)
    assert empty.boxes.shape == (0, 4)


def test_boxes_go_back_to_the_image() -> None:
    known = samples(truth([[10, 20, 50, 60]], [1]))
    # 320 x 240 is scaled by 2 to 640 x 480, 80 rows of padding above.
    raw = output((60, 160, 80, 80, 1, 0.9))
    predictions = MAP().collect([{"output0": raw[None]}], known)
    assert predictions["boxes"].tolist() == [[10, 20, 50, 60]]
    score = MAP().score(predictions, known)
    assert score.value == pytest.approx(1.0)
    assert score.per_class == {"dog": pytest.approx(1.0)}
    assert score.outcomes.tolist() == [pytest.approx(1.0)]
    assert (score.n, score.correct) == (1, None)
    assert (predictions["probe"] == raw[None]).all()


def test_a_miss_halves_and_silence_is_zero(capfd: pytest.CaptureFixture[str]) -> None:
    known = samples(truth([[0, 0, 50, 50]], [0]), truth([[0, 0, 50, 50]], [1]), truth([], []))
    half = MAP().score(said([0], [[0, 0, 50, 50]], [0.9], [0]), known)
    assert half.value == pytest.approx(0.5)
    assert half.per_class == {"cat": pytest.approx(1.0), "dog": 0.0}
    assert half.outcomes == pytest.approx([1, 0, 0])
    assert MAP().score(said([], [], [], []), known).value == 0.0
    assert capfd.readouterr() == ("", "")


def test_overlap_decides_how_many_thresholds_count() -> None:
    # 50 of 60 wide: an overlap of 0.83 passes 7 of the 10 thresholds 0.50, 0.55, ..., 0.95.
    known = samples(truth([[0, 0, 60, 50]], [0]))
    score = MAP().score(said([0], [[0, 0, 50, 50]], [0.9], [0]), known)
    assert score.value == pytest.approx(0.7)
    assert score.details["map50"] == pytest.approx(1.0)


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_equal_to_pycocotools(seed: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    known, found = crowd_of(np.random.default_rng(seed), images=6)
    if not any((~each.crowds).any() for each in known.truths):
        return
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = COCO()
        wanted.dataset = {
            "images": [{"id": each, "width": 320, "height": 240} for each in range(6)],
            "categories": [{"id": each, "name": name} for each, name in enumerate(NAMES)],
            "annotations": [
                {
                    "id": 1 + 100 * image + number,
                    "image_id": image,
                    "category_id": int(each.classes[number]),
                    "bbox": [*box[:2], *(box[2:] - box[:2])],
                    "area": float(each.areas[number]),
                    "iscrowd": int(each.crowds[number]),
                }
                for image, each in enumerate(known.truths)
                for number, box in enumerate(each.boxes)
            ],
        }
        wanted.createIndex()
        boxes = found["boxes"].astype(np.float64)
        rows = np.column_stack(
            [found["images"], boxes[:, :2], boxes[:, 2:] - boxes[:, :2], found["scores"], found["classes"]]
        )
        value, fifty = 0.0, 0.0
        if len(rows):
            evaluation = COCOeval(wanted, wanted.loadRes(rows), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            value, fifty = evaluation.stats[:2]
    score = MAP().score(found, known)
    assert score.value == pytest.approx(value, abs=1e-9)
    assert score.details["map50"] == pytest.approx(fifty, abs=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_a_weight_of_two_is_an_image_twice(seed: int) -> None:
    generator = np.random.default_rng(seed)
    known, found = crowd_of(generator, images=4)
    weights = generator.integers(0, 4, 4)
    order = np.repeat(np.arange(4), weights)
    if not len(order):
        return
    repeated = [np.flatnonzero(found["images"] == each) for each in order]
    rows = np.concatenate(repeated).astype(np.int64)
    again = {name: found[name][rows] for name in ("boxes", "scores", "classes")}
    again["images"] = np.repeat(np.arange(len(order)), [len(each) for each in repeated])
    copies = [known.truths[each] for each in order]
    once, weighted = np.ones((len(order), 1)), weights[:, None].astype(np.float64)
    # Which of two equal scores comes first differs between the two, so no two images share one.
    found["scores"][:] = generator.permutation(len(found["scores"])) / 1000
    again["scores"] = found["scores"][rows]
    want = mean_average_precision(_match(again, copies, len(NAMES)), once)
    have = mean_average_precision(_match(found, known.truths, len(NAMES)), weighted)
    assert have == pytest.approx(want, abs=1e-9)


def test_weights_in_company_and_alone_are_the_same() -> None:
    generator = np.random.default_rng(5)
    known, found = crowd_of(generator, images=8)
    weights = bootstrap_weights(8, 40, seed=1)
    for each in _match(found, known.truths, len(NAMES)):
        whole = average_precision(each, weights)
        alone = np.column_stack([average_precision(each, weights[:, [column]])[:, 0] for column in range(40)])
        assert np.array_equal(whole, alone, equal_nan=True)


def test_drop_is_paired_and_the_same_every_time() -> None:
    generator = np.random.default_rng(3)
    known, found = crowd_of(generator, images=40)
    metric = MAP(replicates=200)
    same = metric.drop(found, found, known, 0.95)
    assert (same.drop, same.low, same.high) == (0, 0, 0)
    worse = dict(found)
    worse["boxes"] = found["boxes"] + np.float32(4)
    fell = metric.drop(worse, found, known, 0.95)
    assert fell == metric.drop(worse, found, known, 0.95)
    assert 0 < fell.low < fell.drop < fell.high
    assert fell.drop == pytest.approx(100 * (metric.score(found, known).value - metric.score(worse, known).value))
    back = metric.drop(found, worse, known, 0.95)
    assert (back.low, back.high) == pytest.approx((-fell.high, -fell.low))
    wider = metric.drop(worse, found, known, 0.99)
    assert wider.low <= fell.low
    assert wider.high >= fell.high


def test_the_interval_is_moved_against_the_bias() -> None:
    replicates = np.random.default_rng(0).normal(10, 1, 100_000)
    # Without bias: the percentiles. With replicates one sigma too high: about one sigma below the estimate of 9,
    # as for a normal estimate seen through a bias of 1.
    assert bias_corrected(10.0, replicates, 0.95) == pytest.approx((10 - 1.96, 10 + 1.96), abs=0.03)
    assert bias_corrected(9.0, replicates, 0.95) == pytest.approx((8 - 1.96, 8 + 1.96), abs=0.15)
    assert bias_corrected(0.0, np.zeros(50), 0.95) == (0, 0)
    for far in (-100.0, 100.0):
        low, high = bias_corrected(far, replicates, 0.95)
        assert replicates.min() <= low <= high <= replicates.max()


@pytest.mark.parametrize(
    ("outputs", "said_"),
    [
        ([np.zeros((1, 6, 50), np.float32)], r"should be \(n, 7, places\)"),
        ([np.zeros((2, 7, 50), np.float32)], "more than 1 images"),
        ([], "outputs of 0 images"),
        ([np.full((1, 7, 50), np.nan, np.float32)], "not finite"),
    ],
)
def test_outputs_that_are_not_a_detectors(outputs: list[np.ndarray], said_: str) -> None:
    with pytest.raises(BadData, match=said_):
        MAP().collect([{"output0": values} for values in outputs], samples(truth([[0, 0, 9, 9]], [0])))


def test_samples_without_boxes_are_refused() -> None:
    plain = ArraySamples(np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(BadData, match="no annotated boxes"):
        MAP().collect([], plain)
    with pytest.raises(BadData, match="0 annotated objects"):
        MAP().score(said([], [], [], []), samples(truth([], [])))


def test_sqnr_over_the_probe() -> None:
    clean, noisy = said([], [], [], []), said([], [], [], [])
    clean["probe"] = np.full((1, 7, 5), 10.0, dtype=np.float32)
    noisy["probe"] = np.full((1, 7, 5), 11.0, dtype=np.float32)
    assert MAP().sqnr_db(noisy, clean) == pytest.approx(20.0)
    assert MAP().sqnr_db(clean, clean) == float("inf")
    assert MAP().agreement(noisy, clean) is None
