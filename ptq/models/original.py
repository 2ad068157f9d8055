"""Original: a float model in the framework it comes from, beside its ONNX form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptq.data.batch import Batch
from ptq.errors import BadModel, one_line

if TYPE_CHECKING:
    import onnx
    import tensorflow as tf

OPSET = 17


@dataclass(frozen=True)
class Original:
    """`form` is the framework's name; `onnx` is the model as tf2onnx left it; `run` is the framework's own answer.

    `run` takes and returns what `onnx` does, by its names. `note` says what was changed on the way, if anything.
    """

    form: str
    onnx: onnx.ModelProto
    run: Callable[[Batch], Batch]
    note: str = ""


def of_function(
    source: Path, form: str, call: Callable[..., dict[str, Any]], inputs: Sequence[tf.TensorSpec]
) -> Original:
    """The model that `call` is: it takes a tensor for each of `inputs` and returns its outputs by name, in order.

    Raises `BadModel` when tf2onnx cannot convert it.
    """
    import tensorflow as tf
    import tf2onnx

    names: list[str] = []

    def traced(*given: Any) -> dict[str, Any]:
        said = call(*given)
        names[:] = said
        return said

    for spec in inputs:
        if not (spec.dtype.is_floating or spec.dtype.is_integer or spec.dtype.is_bool):
            raise BadModel(f"{source}: input {spec.name!r} is of {spec.dtype.name}, but should be of numbers")
    function = tf.function(traced, input_signature=list(inputs))
    try:
        model, _ = tf2onnx.convert.from_function(function, input_signature=list(inputs), opset=OPSET)
    except Exception as error:
        raise BadModel(f"{source}: tf2onnx cannot convert it ({one_line(error)})") from error
    outputs = {value.name: value for value in model.graph.output}
    del model.graph.output[:]
    model.graph.output.extend(outputs[name] for name in names)

    def run(batch: Batch) -> Batch:
        said = function(*(tf.constant(batch[spec.name]) for spec in inputs))
        return {name: said[name].numpy() for name in names}

    return Original(form, model, run)


def in_order(names: Iterable[str]) -> list[str]:
    """The names of a signature's outputs in the order TensorFlow gave them: ``output_2`` comes before ``output_10``."""
    return sorted(
        names,
        key=lambda name: [
            (not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)
        ],
    )
