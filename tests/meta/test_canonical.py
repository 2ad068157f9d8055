"""Canonical: names and order of an ONNX graph come from its structure alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from ptq.models.canonical import canonical, order


@given(st.randoms(use_true_random=False))
def test_names_and_order_come_from_the_structure_alone(random: random.Random) -> None:
    """What tf2onnx leaves to chance: its own numbers, which of two equal constants stays, the order of nodes."""
    numbers = iter(random.sample(range(100), 9))
    slice_, cast, body = (f"{name}__{next(numbers)}" for name in ("Slice", "a/Shape", "body"))
    zero, end, fold, shared = (
        f"{random.choice(['starts', 'axes'])}__{next(numbers)}",
        f"ends__{next(numbers)}",
        f"const_fold_opt__{next(numbers)}",
        random.choice(["first/bias", "second/bias"]),
    )
    result = helper.make_tensor_value_info("in__3", onnx.TensorProto.INT64, [1])
    inner = helper.make_graph([helper.make_node("Add", ["a:0", "outer__5"], ["in__3"])], "then", [], [result])
    nodes = [
        helper.make_node("Slice", ["x", zero, end, zero], [f"{slice_}:0"], name=slice_),
        helper.make_node("Add", [f"{slice_}:0", shared], ["a:0"], name="a"),
        helper.make_node("Add", ["x", fold], ["outer__5"], name=cast),
        helper.make_node("If", ["condition"], ["b:0"], name=body, then_branch=inner, else_branch=inner),
        helper.make_node("Sum", ["b:0", shared, "a:0", ""], ["y"], name="sum"),
        helper.make_node("Neg", ["x"], ["dead"], name="dead"),
    ]
    weights = [
        numpy_helper.from_array(np.array([value]), name)
        for value, name in ((0, zero), (9, end), (3, fold), (2, shared), (True, "condition"), (7, "unread"))
    ]
    random.shuffle(nodes)
    random.shuffle(weights)
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1]) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", [value[0]], [value[1]], weights)
    order(graph)
    assert [node.name for node in graph.node] == ["Slice__4", "a", "Add__10", "If__13", "sum"]
    assert [list(node.input) for node in graph.node] == [
        ["x", "const__1", "const__2", "const__1"],
        ["Slice__3", "const__5"],
        ["x", "const__8"],
        ["condition"],
        ["b:0", "const__5", "a:0", ""],
    ]
    assert [(each.name, numpy_helper.to_array(each).item()) for each in graph.initializer] == [
        ("const__1", 0),
        ("const__2", 9),
        ("const__5", 2),
        ("const__8", 3),
        ("condition", True),
    ]


def test_names_left_out_and_names_that_are_taken() -> None:
    """An optional output nobody asked for is no producer; a made name is none that a branch reads."""
    weights = [numpy_helper.from_array(np.array([each], np.float32), f"const__{each}") for each in (77, 1)]
    result = helper.make_tensor_value_info("in", onnx.TensorProto.FLOAT, [1])
    inner = helper.make_graph([helper.make_node("Neg", ["const__1"], ["in"])], "then", [], [result])
    nodes = [
        helper.make_node("Add", ["x", "const__77"], ["s"]),
        helper.make_node("GRU", ["s", "w", "r", "", ""], ["", "h"], name="gru"),
        helper.make_node("If", ["condition"], ["b"], name="if", then_branch=inner, else_branch=inner),
        helper.make_node("Sum", ["h", "b"], ["y"], name="sum"),
    ]
    value = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "w", "r", "condition", "y")
    ]
    graph = helper.make_graph(nodes, "graph", value[:-1], value[-1:], weights)
    order(graph)
    assert [node.op_type for node in graph.node] == ["Add", "GRU", "If", "Sum"]
    assert sorted({each.name: numpy_helper.to_array(each).item() for each in graph.initializer}.values()) == [1, 77]
    assert next(each.name for each in graph.initializer if numpy_helper.to_array(each) == 1) == "const__1"


def test_sizes_that_vary_lose_the_names_that_count_up() -> None:
    """The batch is N, in every process; a size that is fixed stays."""

    def model(unknown: str) -> Any:
        value = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [unknown, 3, f"{unknown}1"]) for name in "xy"
        ]
        graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "graph", value[:1], value[1:])
        graph.value_info.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [unknown, 3, None]))
        return helper.make_model(graph)

    content = canonical(model("unk__7"))
    assert content == canonical(model("unk__123"))
    found = onnx.load_from_string(content).graph
    for value in (*found.input, *found.output):
        assert [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim] == ["N", 3, 0]


def flattened(folded: bool) -> Any:
    """A model that flattens (N, 4, 4): by a constant shape, or by a chain that computes it, as tf2onnx writes."""
    constants = {"first__1": [0], "end__2": [1], "rest__3": [16], "shape__4": [-1, 16]}
    chain = [
        helper.make_node("Shape", ["x"], ["Shape__5"]),
        helper.make_node("Slice", ["Shape__5", "first__1", "end__2", "first__1"], ["batch:0"]),
        helper.make_node("Cast", ["batch:0"], ["Cast__6"], to=onnx.TensorProto.INT32),
        helper.make_node("Cast", ["Cast__6"], ["Cast__7"], to=onnx.TensorProto.INT64),
        helper.make_node("Concat", ["Cast__7", "rest__3"], ["Concat__8"], axis=0),
    ]
    nodes = [helper.make_node("Reshape", ["x", "shape__4" if folded else "Concat__8"], ["flat"])]
    nodes = [*([] if folded else chain), *nodes, helper.make_node("Neg", ["flat"], ["y"])]
    value = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 4, 4]), ("y", ["N", 16]))
    ]
    weights = [numpy_helper.from_array(np.array(each, np.int64), name) for name, each in constants.items()]
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph(nodes, "graph", value[:1], value[1:], weights), opset_imports=opset)


def test_a_shape_that_is_computed_is_a_constant() -> None:
    """TensorFlow folds the chain in most processes and leaves it in some: the bytes are the same."""
    content = canonical(flattened(False))
    assert content == canonical(flattened(True))
    assert [node.op_type for node in onnx.load_from_string(content).graph.node] == ["Reshape", "Neg"]


def test_a_shape_of_two_unknown_sizes_stays_computed() -> None:
    """Reshape takes one -1; where two sizes vary, the chain is what the model computes."""
    model = flattened(False)
    del model.graph.initializer[2]  # rest__3: how many values a sample has, which the model is given
    for name, shape in (("rest__3", [1]), ("x", ["N", "H", "W"])):
        kind = onnx.TensorProto.INT64 if name == "rest__3" else onnx.TensorProto.FLOAT
        model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    del model.graph.input[0]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))
    found = [node.op_type for node in onnx.load_from_string(canonical(model)).graph.node]
    assert found == ["Shape", "Slice", "Cast", "Cast", "Concat", "Reshape", "Neg"]
