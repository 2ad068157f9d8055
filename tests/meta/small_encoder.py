"""A small sentence encoder as ONNX: integer inputs of varying length, an attention mask, products of activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ptq.data.samples import ArraySamples

WORDS, WIDTH = 50, 16


def sentences(count: int, seed: int = 0) -> ArraySamples:
    """`count` sentences of 3 to 9 words: ids and mask, int64, one array a sentence."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 10, count)
    ids = [generator.integers(0, WORDS, length) for length in lengths]
    return ArraySamples({"ids": ids, "mask": [np.ones(length, np.int64) for length in lengths]})


def padded(samples: ArraySamples) -> ArraySamples:
    """The same sentences at one length: what is filled up is masked."""
    inputs = dict(samples.inputs)  # type: ignore[arg-type]
    longest = max(map(len, inputs["ids"]))
    return ArraySamples(
        {name: np.stack([np.pad(row, (0, longest - len(row))) for row in rows]) for name, rows in inputs.items()}
    )


def write_encoder(path: Path) -> Path:
    """Inputs ids and mask, int64 (n, length); output embedding, float32 (n, 16)."""
    generator = np.random.default_rng(3)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((generator.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32), name)

    node = helper.make_node
    nodes = [
        node("Gather", ["words", "ids"], ["x"], "x"),
        node("MatMul", ["x", "wq"], ["q"], "q"),
        node("MatMul", ["x", "wk"], ["k"], "k"),
        node("MatMul", ["x", "wv"], ["v"], "v"),
        node("Transpose", ["k"], ["kt"], "kt", perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"], "scores"),
        node("Cast", ["mask"], ["real"], "real", to=TensorProto.FLOAT),
        node("Sub", ["one", "real"], ["absent"], "absent"),
        node("Mul", ["absent", "lowest"], ["far"], "far"),
        node("Unsqueeze", ["far", "axis"], ["bias"], "bias"),
        node("Add", ["scores", "bias"], ["masked"], "masked"),
        node("Softmax", ["masked"], ["share"], "share", axis=-1),
        node("MatMul", ["share", "v"], ["mixed"], "mixed"),
        node("Add", ["mixed", "x"], ["sum"], "sum"),
        node("Relu", ["sum"], ["hidden"], "hidden"),
        node("MatMul", ["hidden", "wo"], ["out"], "out"),
        node("ReduceMean", ["out"], ["embedding"], "embedding", axes=[1], keepdims=0),
    ]
    held = [weight("words", WORDS, WIDTH), *(weight(name, WIDTH, WIDTH) for name in ("wq", "wk", "wv", "wo"))]
    held[0] = numpy_helper.from_array(numpy_helper.to_array(held[0]) * 12, "words")  # so that attention has a say
    held.append(numpy_helper.from_array(np.float32(np.finfo(np.float32).min), "lowest"))
    held.append(numpy_helper.from_array(np.float32(1), "one"))
    held.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "length"]) for name in ("ids", "mask")],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", WIDTH])],
        held,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
