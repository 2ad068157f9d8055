"""Mixed-scale joins: found from statistics, kept in float with what depends on them, never by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ptq.errors import BadModel, PtqError
from ptq.quantization.exclude import FACTOR, choose_exclude, mixed_joins, plan_exclude, summary


@dataclass(frozen=True)
class Seen:
    """What the plan asks of a tensor's statistics."""

    min: float
    max: float


def weights(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype=np.float32), name)


def save(path: Path, nodes: list[onnx.NodeProto], output: str, *constants: onnx.TensorProto) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        list(constants),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    # Named without a meaning: a plan that went by name would find nothing.
    return helper.make_node(kind, inputs.split(), [output], name=f"n_{output}", **attributes)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone with a SiLU, a distribution (Softmax, Conv) for the boxes, Sigmoid scores, one Concat for both."""
    return save(
        tmp_path_factory.mktemp("models") / "detector.onnx",
        [
            node("Conv", "image w", "a"),
            node("Sigmoid", "a", "gate"),
            node("Mul", "a gate", "b"),
            node("Conv", "b w", "logits_of_boxes"),
            node("Conv", "b w", "logits_of_classes"),
            node("Softmax", "logits_of_boxes", "share", axis=1),
            node("Transpose", "share", "turned", perm=[0, 1, 3, 2]),
            node("Conv", "turned w", "expected"),
            node("Mul", "expected stride", "boxes"),
            node("Sigmoid", "logits_of_classes", "scores"),
            node("Concat", "boxes scores", "joined", axis=1),
            node("Reshape", "joined shape", "answer"),
        ],
        "answer",
        weights("w", 4, 4, 1, 1),
        weights("stride", 1),
        numpy_helper.from_array(np.array([1, 8, 64]), "shape"),
    )


def spread(**ranges: tuple[float, float]) -> dict[str, Seen]:
    return {name: Seen(*each) for name, each in ranges.items()}


def test_a_detectors_tail_is_kept_with_its_reasons(detector: Path) -> None:
    plan = plan_exclude(detector, spread(boxes=(-3, 640), scores=(0, 1)))  # type: ignore[arg-type]
    why = {each.node: each.reason for each in plan}
    assert why["n_joined"] == "joins ranges of 643 and 1 (643x) under one scale"
    tail = {"n_boxes", "n_scores", "n_expected", "n_turned", "n_share"}
    assert {name for name, reason in why.items() if reason.endswith("after the last learned layers")} == tail
    last = {"n_logits_of_boxes", "n_logits_of_classes"}
    assert {name for name, reason in why.items() if reason.endswith("last learned layer")} == last
    assert set(why) == tail | last | {"n_joined", "n_answer"}
    assert "2 decode tail of n_joined: last learned layer" in summary(plan)


def test_equal_scales_are_left_alone(detector: Path) -> None:
    assert plan_exclude(detector, spread(boxes=(0, 1), scores=(0, 1))) == []  # type: ignore[arg-type]


def test_tensors_without_statistics_or_always_zero_are_no_join(detector: Path) -> None:
    assert mixed_joins(detector, spread(boxes=(0, 640))) == []
    assert mixed_joins(detector, spread(boxes=(0, 640), scores=(0, 0))) == []


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_the_factor_decides_and_nothing_else(detector: Path, one: float, other: float) -> None:
    statistics = spread(boxes=(0, one), scores=(-other, 0))
    ratio = max(one, other) / min(one, other)
    found = mixed_joins(detector, statistics)
    assert bool(found) == (max(one, other) > FACTOR * min(one, other))
    if found:
        assert found[0].factor == pytest.approx(ratio)
        assert found[0].node == "n_joined"


def test_zero_belongs_to_a_range(detector: Path) -> None:
    # 100..101 needs a grid that reaches from 0 to 101.
    assert mixed_joins(detector, spread(boxes=(100, 101), scores=(0, 1)))[0].widest == 101


def test_a_join_of_feature_maps_takes_its_readers_along_and_no_tail(tmp_path: Path) -> None:
    model = save(
        tmp_path / "features.onnx",
        [
            node("Conv", "image w", "a"),
            node("Conv", "image w", "b"),
            node("Concat", "a b", "joined", axis=1),
            node("MaxPool", "joined", "pooled", kernel_shape=[2, 2]),
            node("Conv", "pooled v", "c"),
            node("Sigmoid", "c", "gate"),
            node("Mul", "c gate", "answer"),
        ],
        "answer",
        weights("w", 4, 4, 1, 1),
        weights("v", 4, 8, 1, 1),
    )
    plan = plan_exclude(model, spread(a=(0, 640), b=(0, 1)))  # type: ignore[arg-type]
    assert [each.node for each in plan] == ["n_joined", "n_pooled", "n_c"]


def test_exclude_takes_names_patterns_and_auto(detector: Path) -> None:
    statistics = spread(boxes=(0, 640), scores=(0, 1))
    chosen = choose_exclude(detector, ["n_a", "n_logits*"], dict)
    assert [each.node for each in chosen] == ["n_a", "n_logits_of_boxes", "n_logits_of_classes"]
    assert chosen[1].reason == "asked for by 'n_logits*'"
    both = choose_exclude(detector, ["n_joined", "auto"], lambda: statistics)  # type: ignore[arg-type,return-value]
    assert {each.node for each in both} == {each.node for each in plan_exclude(detector, statistics)}  # type: ignore[arg-type]
    assert len({each.node for each in both}) == len(both)
    with pytest.raises(PtqError, match=r"detector.onnx: no node is called 'N_A', but --exclude"):
        choose_exclude(detector, ["N_A"], dict)


def test_names_are_needed(tmp_path: Path, detector: Path) -> None:
    model = onnx.load(detector)
    for each in model.graph.node:
        each.name = ""
    onnx.save(model, tmp_path / "nameless.onnx")
    with pytest.raises(BadModel, match=r"nameless.onnx: a Concat node has no name"):
        plan_exclude(tmp_path / "nameless.onnx", spread(boxes=(0, 640), scores=(0, 1)))  # type: ignore[arg-type]


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(BadModel, match=r"text.onnx"):
        mixed_joins(tmp_path / "text.onnx", {})


def test_one_scale_for_both_destroys_the_scores_and_the_plan_restores_them(detector: Path, tmp_path: Path) -> None:
    """The failure itself, on a tiny graph: quantized whole, every score is 0; with the plan, none is lost."""
    from ptq.backends.onnxruntime.quantize import quantize
    from ptq.models.session import session
    from ptq.quantization.dtype import DTYPES
    from ptq.quantization.plan import Plan

    statistics = {name: Seen(-6.0, 6.0) for name in ("a", "b", "logits_of_boxes", "logits_of_classes", "image")}
    statistics |= spread(gate=(0, 1), share=(0, 1), turned=(0, 1), expected=(0, 4), boxes=(0, 640), scores=(0, 1))
    statistics |= spread(joined=(0, 640), answer=(0, 640))
    ranges = {name: (each.min, each.max) for name, each in statistics.items()}
    image = np.random.default_rng(0).normal(0, 1, (1, 4, 8, 8)).astype(np.float32)

    def scores(path: Path) -> np.ndarray:
        # as written: what is shown is the scale's doing, not that of a kernel that saturates
        made = session(path, optimize=False).run(None, {"image": image})
        result: np.ndarray = made[0][:, 4:]
        return result

    plan = [each.node for each in plan_exclude(detector, statistics)]  # type: ignore[arg-type]
    for name, exclude in (("whole", []), ("planned", plan)):
        quantize(detector, Plan(DTYPES["u8s8"], ranges, False, exclude), tmp_path / f"{name}.onnx")
    want = scores(detector)
    assert want.max() > 0.4
    assert (scores(tmp_path / "whole.onnx") == 0).mean() > 0.9
    assert np.abs(scores(tmp_path / "planned.onnx") - want).max() < 0.1
