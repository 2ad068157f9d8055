"""Conversion of a Keras model (.h5, .keras) to ONNX through tf2onnx, checked against Keras.

It runs in a process of its own, see `ptq.models.tensorflow_process`.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptq.errors import BadModel, NotInstalled
from ptq.models.keras_file import SUFFIXES, load_keras
from ptq.models.tensorflow_process import answer, ask, one_line
from ptq.store import Store, file_digest, write_bytes

if TYPE_CHECKING:
    import keras
    import onnx

OPSET = 17
TOLERANCE = 1e-4
# A name tf2onnx made: counted up, differently in each process.
_MADE_UP = re.compile(r".*__\d+(:\d+)?")


@dataclass(frozen=True)
class Parity:
    """How far the ONNX model is from the Keras model on the same `n` random inputs in [`low`, `high`].

    `max_abs` is the largest absolute difference of two outputs, `largest` the largest absolute Keras output,
    `agreement` the share of inputs with the same largest output, 0..1.
    """

    max_abs: float
    largest: float
    agreement: float
    n: int
    low: float
    high: float

    def check(self, name: str) -> None:
        """Raise `BadModel` when `max_abs` is above `TOLERANCE` of `largest`."""
        if not self.max_abs <= TOLERANCE * self.largest:
            raise BadModel(
                f"{name}: ONNX and Keras differ by {self.max_abs:.3g} on {self.n} inputs, but should differ by at most "
                f"{TOLERANCE * self.largest:.3g}; likely cause: an operation tf2onnx converts wrongly"
            )

    def __str__(self) -> str:
        return (
            f"max |onnx - keras| {self.max_abs:.3g} of {self.largest:.3g}, same top-1 on {self.agreement:.1%} "
            f"of {self.n} random inputs in [{self.low:g}, {self.high:g}]"
        )


def missing() -> str | None:
    """None when a Keras model can be converted here, else one line that says what to install."""
    absent = [each for each in ("tensorflow", "tf2onnx") if importlib.util.find_spec(each) is None]
    return f"{' and '.join(absent)} not installed: pip install 'ptq[tf]'" if absent else None


def convert(source: Path, out: Path, low: float = 0, high: float = 255, n: int = 64, seed: int = 0) -> Parity:
    """Write `source` as ONNX to `out` and say how near it is to Keras on `n` random inputs in [`low`, `high`].

    Input layout and dtype stay (NHWC, float32), the batch dimension varies and is called N, opset `OPSET`; Conv and
    BatchNormalization are left as tf2onnx leaves them, Conv, Mul, Add. The same file, versions and platform give the
    same bytes, but for a model with loops or branches inside. Nothing is written unless the two models agree
    (`Parity.check`).

    Raises `NotInstalled` without tensorflow or tf2onnx; `BadModel` when the file is not a Keras model, when it names
    code to run (a Lambda layer, a class from outside Keras: nothing of it is run), has other than one float32 input
    of fixed size, or cannot be converted.
    """
    if not source.is_file():
        raise BadModel(f"{source}: no such file, but should be a Keras model ({', '.join(SUFFIXES)})")
    if (reason := missing()) is not None:
        raise NotInstalled(f"{source.name}: cannot be converted; {reason}")
    job = {"source": str(source), "out": str(out), "low": low, "high": high, "n": n, "seed": seed}
    return Parity(**ask("ptq.models.conversion", job)["parity"])


def converted(source: Path, store: Store) -> Path:
    """The ONNX form of a Keras model, made by `convert` at the first call and kept in the store; raises as it does."""
    if not source.is_file():
        raise BadModel(f"{source}: no such file, but should be a Keras model ({', '.join(SUFFIXES)})")
    if (reason := missing()) is not None:
        raise NotInstalled(f"{source.name}: cannot be converted; {reason}")
    key = {
        "keras": file_digest(source),
        "opset": OPSET,
        "versions": {each: version(each) for each in ("tensorflow", "keras", "tf2onnx", "onnx")},
    }
    return store.get("model", key, ".onnx", lambda out: {"parity": str(convert(source, out))}).path


def _load(source: Path) -> keras.Model:
    if source.suffix not in SUFFIXES:
        raise BadModel(f"{source}: suffix {source.suffix!r}, but should be one of {', '.join(SUFFIXES)}")
    model = load_keras(source)
    shape = model.inputs[0].shape
    if len(model.inputs) != 1 or model.inputs[0].dtype != "float32" or None in shape[1:]:
        raise BadModel(
            f"{source}: inputs {[each.shape for each in model.inputs]}, but should be one of fixed size, float32"
        )
    return model


def _to_onnx(model: keras.Model, source: Path) -> onnx.ModelProto:
    import onnx
    import tensorflow as tf
    import tf2onnx

    given = model.inputs[0]
    signature = tf.TensorSpec((None, *given.shape[1:]), tf.float32, name=given.name)
    try:
        converted, _ = tf2onnx.convert.from_keras(model, input_signature=[signature], opset=OPSET)
    except Exception as error:
        raise BadModel(f"{source}: tf2onnx cannot convert it ({one_line(error)})") from error
    for value in (*converted.graph.input, *converted.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    # Names of unknown dimensions are counted up, differently in each run; preparation infers shapes anew.
    del converted.graph.value_info[:]
    _canonical(converted.graph)
    onnx.checker.check_model(converted, full_check=True)
    return converted


def _canonical(graph: onnx.GraphProto) -> None:
    """Order nodes and weights, and name what tf2onnx named itself, by the structure of the graph alone.

    tf2onnx keeps its nodes in sets of objects, so by address: which of two equal constants stays, what numbers its
    own names get (``const_fold_opt__147``) and, as it sorts by name, the order of the nodes differ between processes.
    Depth first from the outputs is an order, and the first reader of a weight a name, that do not. What is inside a
    loop or a branch (a recurrent layer's, say) stays as it is.
    """
    fixed = {value.name for value in (*graph.input, *graph.output)} | set(_outer_names(graph))
    producer = {name: node for node in graph.node for name in node.output if name}
    ordered: list[onnx.NodeProto] = []
    done: set[int] = set()
    stack = [producer[value.name] for value in reversed(graph.output) if value.name in producer]
    while stack:
        sources = [producer[name] for name in _reads(stack[-1]) if name in producer]
        waiting = [node for node in sources if id(node) not in done]
        if waiting:
            stack.append(waiting[0])
        elif id(node := stack.pop()) not in done:
            done.add(id(node))
            ordered.append(node)
    readers = Counter(name for node in ordered for name in node.input)
    weights = {each.name: each for each in graph.initializer}
    names: dict[str, str] = {}
    taken = fixed | {name for node in graph.node for each in _subgraphs(node) for name in _defined(each)}

    def named(name: str, kind: str) -> str:
        if name and name not in names:
            # A weight with several readers may have been several equal ones, each with a name of its own.
            own = name in fixed or not (_MADE_UP.fullmatch(name) or (name in weights and readers[name] > 1))
            made = next(each for number in count(len(names)) if (each := f"{kind}__{number}") not in taken)
            names[name] = name if own else made
            taken.add(names[name])
        return names.get(name, "")

    for node in ordered:
        node.input[:] = [named(each, "const" if each in weights else "value") for each in node.input]
        node.output[:] = [named(each, node.op_type) for each in node.output]
        node.name = named(node.name, node.op_type)
    kept = [weight for name, weight in weights.items() if name in names or name in fixed]
    position = {name: index for index, name in enumerate(names)}
    kept.sort(key=lambda weight: (position.get(weight.name, len(names)), weight.name))
    for weight in kept:
        weight.name = names.get(weight.name, weight.name)
    nodes = [deepcopy(node) for node in ordered], [deepcopy(weight) for weight in kept]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes[0])
    graph.initializer.extend(nodes[1])


def _reads(node: onnx.NodeProto) -> list[str]:
    """The tensors a node reads, those its subgraphs (If, Loop, Scan) take from outside included."""
    return [*node.input, *(name for each in _subgraphs(node) for inner in each.node for name in _reads(inner))]


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [graph for each in node.attribute for graph in (*each.graphs, *([each.g] if each.HasField("g") else []))]


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name a graph and what is inside it makes."""
    yield from (each.name for each in (*graph.input, *graph.initializer))
    for node in graph.node:
        yield from node.output
        for each in _subgraphs(node):
            yield from _defined(each)


def _outer_names(graph: onnx.GraphProto) -> Iterator[str]:
    """The names the subgraphs of `graph` read: they are not renamed."""
    for node in graph.node:
        for each in _subgraphs(node):
            for inner in each.node:
                yield from _reads(inner)


def _parity(model: keras.Model, content: bytes, low: float, high: float, n: int, seed: int) -> Parity:
    import onnxruntime

    shape = (n, *model.inputs[0].shape[1:])
    inputs = np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)
    want = np.asarray(model.predict(inputs, verbose=0))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    have = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    same = want.reshape(n, -1).argmax(axis=1) == have.reshape(n, -1).argmax(axis=1)
    return Parity(float(np.abs(have - want).max()), float(np.abs(want).max()), float(same.mean()), n, low, high)


def _work(job: dict[str, Any]) -> dict[str, Any]:
    """Does in its own process what `convert` was asked."""
    source, out = Path(job["source"]), Path(job["out"])
    model = _load(source)
    content: bytes = _to_onnx(model, source).SerializeToString(deterministic=True)
    parity = _parity(model, content, job["low"], job["high"], job["n"], job["seed"])
    parity.check(source.name)
    write_bytes(out, content)
    return {"parity": asdict(parity)}


if __name__ == "__main__":
    answer(_work)
