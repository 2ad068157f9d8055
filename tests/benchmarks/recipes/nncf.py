"""NNCF: `nncf.quantize` of an ONNX model; the result is ONNX, run by onnxruntime. Recipes as its README has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

REQUIRES = ("nncf", "openvino", "onnx", "onnxruntime")
DTYPE = "u8s8"


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """The defaults, with all calibration images."""
    _quantize(model, inputs, out)


def best(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """`fast_bias_correction=False`: slower, and named as the more accurate; after `apart`, without which it fails."""
    _quantize(model, inputs, out, apart, fast_bias_correction=False)


def apart(model: Any) -> None:
    """Give each of several layers that read one tensor an `Identity` of it, which onnxruntime removes again.

    NNCF 3.4 cuts a sub-model at the inputs of layers, and one tensor that two of them read is twice an input of it:
    onnxruntime refuses that ("Duplicate definition-site"). Residual networks whose shortcut has a layer are such.
    """
    from collections import Counter

    import onnx

    layers = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    readers = Counter(node.input[0] for node in model.graph.node if node.op_type in layers)
    for node in list(model.graph.node):
        if node.op_type in layers and readers[node.input[0]] > 1:
            own = f"{node.input[0]}_of_{node.output[0]}"
            copy = onnx.helper.make_node("Identity", [node.input[0]], [own], name=own)
            model.graph.node.insert(list(model.graph.node).index(node), copy)
            node.input[0] = own


def _quantize(
    model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path,
    prepare: Callable[[Any], None] = lambda _: None, **options: Any,
) -> None:  # fmt: skip
    import nncf
    import onnx

    rows = zip(*inputs.values(), strict=True)
    feeds = [{name: part[None] for name, part in zip(inputs, row, strict=True)} for row in rows]
    loaded = onnx.load(model)
    prepare(loaded)
    made = nncf.quantize(loaded, nncf.Dataset(feeds), subset_size=len(feeds), **options)
    onnx.save(made, out)
