"""A repository that is not ours: a tiny model, its images, and the few lines that have ptq judge it."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

with contextlib.suppress(ImportError):
    # it replaces the standard library's finder for good; first imported in `run`, it would be taken away again
    import importlib_metadata  # noqa: F401

CONFTEST = """
import numpy as np
import ptq

def pytest_ptq_workloads():
    x, y = np.load("images.npy"), np.load("labels.npy")
    contract = ptq.InputContract((None, 8, 8, 1), "NHWC", low=0, high=16)
    return [ptq.Workload("mine", "model.onnx", ptq.ArraySamples(x[:90], y[:90]), ptq.ArraySamples(x[90:], y[90:]),
                         contract, include=lambda case: case.backend == "onnxruntime" and case.exclude == "none"
                         and case.method in ("none", "minmax"))]
"""
BARS = """
["mine-*"]
floor = 0.9
why = "the classes are far apart"
"""
SUITE = """
import pytest

@pytest.mark.accuracy
def test_accuracy(case, judge):
    judge(case)
"""


STRUCTURE = """
@pytest.mark.structure
def test_structure(case, judge):
    judge.structure(case)
"""
LATENCY = """
@pytest.mark.latency
def test_latency(case, batch, judge, benchmark):
    judge.latency(case, batch, benchmark)
"""


def images(count: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """(float32 images of shape (count, 8, 8, 1) in 0..16, labels): three classes, near-balanced, well apart."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    pictures = generator.uniform(0, 6, (count, 8, 8, 1))
    for index, label in enumerate(labels):
        pictures[index, 2 * label : 2 * label + 3] += 9
    return np.clip(pictures, 0, 16).astype(np.float32), labels


def write_model(path: Path, scale: float = 1.0, favour: float = 0.0, conv: bool = False) -> None:
    """A nearest-centroid classifier as ONNX: Flatten, Gemm, Softmax; input (N, 8, 8, 1).

    `favour` is added to the score of class 0: 24 misplaces 14 of 300 images. With `conv` a residual block that doubles
    every pixel comes first, and the Gemm is a Conv over the whole image: with int8 activations, onnxruntime on x86 runs
    in float what reads or writes a tensor that is used twice.
    """
    x, y = images(300, seed=1)
    centroids = np.stack([x[y == label].mean(axis=0).reshape(-1) for label in range(3)])
    weight = (2 * centroids.T / 100 * scale).astype(np.float32)
    bias = (-(centroids**2).sum(axis=1) / 100 * scale).astype(np.float32)
    bias[0] += np.float32(favour)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["p"]),
    ]
    weights = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    if conv:
        same = np.pad(np.ones((1, 1, 1, 1), np.float32), ((0, 0), (0, 0), (1, 1), (1, 1)))
        whole = weight.T.reshape(3, 1, 8, 8) / 2
        weights = [numpy_helper.from_array(each, name) for name, each in (("s", same), ("w", whole), ("b", bias))]
        nodes[:2] = [
            helper.make_node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["nchw", "s"], ["first"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["first", "s"], ["second"], name="second", pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["first", "second"], ["sum"], name="sum"),
            helper.make_node("Conv", ["sum", "w", "b"], ["scores"], name="whole"),
            helper.make_node("Flatten", ["scores"], ["logits"]),
        ]
    graph = helper.make_graph(
        nodes,
        "centroids",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 8, 1])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 3])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def run(repository: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """pytest in the repository, in this process."""
    before = importlib.util.find_spec  # a repository's conftest.py may hide a framework, from itself alone
    try:
        return repository.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider", *arguments)
    finally:
        importlib.util.find_spec = before


def write_repository(folder: Path) -> None:
    """The whole foreign repository, in `folder`."""
    x, y = images(390)
    np.save(folder / "images.npy", x)
    np.save(folder / "labels.npy", y)
    write_model(folder / "model.onnx")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "bars.toml").write_text(BARS)
    (folder / "test_mine.py").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\n")
