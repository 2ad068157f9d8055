"""A SavedModel folder as ONNX, through tf2onnx. Runs in TensorFlow's process, see `ptq.models.convert`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptq.errors import BadModel, one_line
from ptq.models.original import Original, in_order, of_function

SERVING = "serving_default"
LARGEST = 2 << 30  # protobuf's own limit
# Ops that reach out of the graph: files, other processes, Python. Loading runs those of a model's initialisers.
_REACHES_OUT = re.compile(
    r"File|PyFunc|Print|Debug|Summary|Rpc|Remote|Server|Reader|Dataset|Iterator|Record|Temporary|Lmdb|Query|Recv|Send"
    r"|Collective|Nccl|Abort|DistributedSave|LoadAndRemap|Worker|^Copy"
)
_CHECKPOINT = re.compile(r"ShardedFilename|SaveV2|SaveSlices|Save|MergeV2Checkpoints")


def is_saved_model(path: Path) -> bool:
    """Whether `path` is a folder with a ``saved_model.pb``."""
    return (path / "saved_model.pb").is_file()


def read(source: Path) -> Original:
    """The model's signature for serving as ONNX, under the signature's names.

    Raises `BadModel` when `check` does, when this TensorFlow cannot load the folder or there is no such signature, and
    when it cannot be converted.
    """
    check(source)
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(source))
    except Exception as error:
        raise BadModel(f"{source}: {cannot_load(error)}") from error
    known = dict(loaded.signatures)
    if SERVING not in known and len(known) != 1:
        raise BadModel(f"{source}: signatures {sorted(known)}, but should have {SERVING!r} or exactly one")
    function = known[SERVING] if SERVING in known else next(iter(known.values()))
    given = function.structured_input_signature[1]
    inputs = [tf.TensorSpec(given[name].shape, given[name].dtype, name=name) for name in sorted(given)]

    def call(*values: Any) -> dict[str, Any]:
        said = function(**{spec.name: value for spec, value in zip(inputs, values, strict=True)})
        return {name: said[name] for name in in_order(said)}

    original = of_function(source, "TensorFlow", call, inputs)
    original.onnx.graph.doc_string = "converted from a SavedModel"
    return original


def cannot_load(error: BaseException) -> str:
    """What is to be said of a SavedModel that this TensorFlow does not load."""
    import tensorflow as tf

    return (
        f"TensorFlow {tf.__version__} cannot load this SavedModel ({one_line(error)}); load it with the TensorFlow "
        "that saved it and save it as .keras or .h5, or convert the .tflite of the same model"
    )


def check(source: Path) -> None:
    """Raise `BadModel` unless the folder's graphs compute only: TensorFlow runs their initialisers when it loads them.

    Ops that write checkpoints are in every SavedModel; they are let pass where nothing of the model calls them.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    file = source / "saved_model.pb"
    if (source / "saved_model.cpb").exists():
        raise BadModel(
            f"{source}: has a saved_model.cpb, but should have its graph in saved_model.pb alone; not loaded"
        )
    if (size := file.stat().st_size) > LARGEST:
        raise BadModel(f"{file}: {size:,} bytes, but should have at most {LARGEST:,}")
    found = SavedModel()
    try:
        found.ParseFromString(file.read_bytes())
    except Exception as error:
        raise BadModel(f"{file}: is no whole SavedModel ({one_line(error)})") from error
    for graph in found.meta_graphs:
        functions = {each.signature.name: list(each.node_def) for each in graph.graph_def.library.function}
        called = {name for nodes in functions.values() for node in nodes for name in _called(node)}
        for name, nodes in {"": list(graph.graph_def.node), **functions}.items():
            for node in nodes:
                saves = _CHECKPOINT.fullmatch(node.op) is not None
                if (saves and name in called) or (not saves and _REACHES_OUT.search(node.op)):
                    raise BadModel(
                        f"{source}: has the op {one_line(node.op, 60)}, which reaches out of the model; not loaded"
                    )


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        yield from (each.name for each in (value.func, *value.list.func) if each.name)
