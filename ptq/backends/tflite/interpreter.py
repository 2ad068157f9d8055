"""TFLite's interpreter, LiteRT: named batches in, named batches out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptq.backends.batching import in_batches
from ptq.backends.protocol import Predictor
from ptq.data.batch import Array, Batch
from ptq.data.signature import Signature, Tensor
from ptq.errors import BadModel, one_line
from ptq.models.original import in_order

Detail = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Opened:
    """A file the interpreter has accepted. `inputs` and `outputs` are LiteRT's details by name.

    Names are those of the file's signature, where it has one, else its tensors' without what TensorFlow adds.
    """

    path: Path
    interpreter: Any
    inputs: Mapping[str, Detail]
    outputs: Mapping[str, Detail]

    @property
    def signature(self) -> Signature:
        """What `predictor` takes and returns: real numbers where the file has quantized ones, and any batch."""
        sides = ([_tensor(*found) for found in side.items()] for side in (self.inputs, self.outputs))
        inputs, outputs = (tuple(side) for side in sides)
        return Signature(inputs, outputs)

    @property
    def ends(self) -> str:
        """Element types of the inputs, a slash, those of the outputs."""
        sides = (
            dict.fromkeys(np.dtype(found["dtype"]).name for found in side.values())
            for side in (self.inputs, self.outputs)
        )
        return "/".join(",".join(side) for side in sides)

    def predictor(self) -> Predictor:
        """Runs as many samples at a time as the model is made for, most often one."""
        sizes = {int(found["shape"][0]) for found in self.inputs.values() if len(found["shape"])}
        if len(sizes) != 1:
            raise BadModel(f"{self.path}: inputs of {sorted(sizes)} samples, but should take the same number each")
        shapes = {name: tuple(found["shape"]) for name, found in self.inputs.items()}
        if self.varies:
            shapes.clear()

        def run(batch: Batch) -> Batch:
            given = self._by_name(batch)
            try:
                if (now := {name: values.shape for name, values in given.items()}) != shapes:
                    for name, values in given.items():
                        self.interpreter.resize_tensor_input(self.inputs[name]["index"], values.shape, strict=True)
                    self.interpreter.allocate_tensors()
                    shapes.update(now)
                for name, values in given.items():
                    self.interpreter.set_tensor(self.inputs[name]["index"], _stored(values, self.inputs[name]))
                self.interpreter.invoke()
            # The runtime raises ValueError and RuntimeError with its own words.
            except Exception as error:
                said = ", ".join(f"{name!r} {values.dtype} {values.shape}" for name, values in given.items())
                raise BadModel(f"{self.path}: does not run on {said} ({one_line(error)})") from error
            return {
                name: _real(self.interpreter.get_tensor(found["index"]), found) for name, found in self.outputs.items()
            }

        return in_batches(run, sizes.pop())

    @property
    def varies(self) -> bool:
        """Whether other dimensions of an input vary than the batch."""
        return any(-1 in found["shape_signature"][1:] for found in self.inputs.values())

    def _by_name(self, batch: Batch) -> Batch:
        if len(batch) == len(self.inputs) == 1:
            return dict(zip(self.inputs, batch.values(), strict=True))
        given = {plain(name): values for name, values in batch.items()}
        if set(given) != set(self.inputs):
            raise BadModel(
                f"{self.path}: takes {', '.join(map(repr, self.inputs))}, but is given {', '.join(map(repr, batch))}; "
                "several inputs are told apart by name: convert the model with the float model's names"
            )
        return {name: given[name] for name in self.inputs}


def predictor(artifact: Path, threads: int = 1) -> Predictor:
    """`Opened.predictor` of a file."""
    return opened(artifact, threads).predictor()


def opened(artifact: Path, threads: int = 1) -> Opened:
    """The file in an interpreter; `BadModel` when it is not TFLite."""
    if not artifact.is_file():
        raise BadModel(f"{artifact}: no such file, but should be a .tflite model")
    from ai_edge_litert.interpreter import Interpreter

    try:
        with _quiet():
            interpreter = Interpreter(model_path=str(artifact), num_threads=threads)
            inputs, outputs = _named(interpreter)
            found = Opened(artifact, interpreter, inputs, outputs)
            if not found.varies:  # else there are no sizes yet to allocate for
                interpreter.allocate_tensors()
    except Exception as error:
        raise BadModel(f"{artifact}: is not a whole TFLite model ({one_line(error)})") from error
    if not inputs or not outputs:
        raise BadModel(
            f"{artifact}: {len(inputs)} inputs and {len(outputs)} outputs, but should have at least 1 of each"
        )
    return found


def plain(name: str) -> str:
    """A tensor's name without what TensorFlow adds."""
    return re.sub(r":0$", "", name.removeprefix("serving_default_"))


def _named(interpreter: Any) -> tuple[dict[str, Detail], dict[str, Detail]]:
    inputs = {plain(found["name"]): found for found in interpreter.get_input_details()}
    outputs = {plain(found["name"]): found for found in interpreter.get_output_details()}
    if len(interpreter.get_signature_list()) != 1:
        return inputs, outputs
    runner = interpreter.get_signature_runner()
    said = {found["index"]: name for name, found in runner.get_input_details().items()}
    # LiteRT has outputs in no order; their names in the signature do.
    named = runner.get_output_details()
    inputs = {said.get(found["index"], name): found for name, found in inputs.items()}
    return inputs, {name: named[name] for name in in_order(named)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the runtime's line about its delegate from the user's terminal: it is written below Python."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _tensor(name: str, detail: Detail) -> Tensor:
    sizes = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    # a batch of any size is fed in parts of the size the model is made for
    shape = tuple(None if axis == 0 or size < 0 else int(size) for axis, size in enumerate(sizes))
    return Tensor(name, shape, "float32" if _is_quantized(detail) else np.dtype(detail["dtype"]).name)


def _is_quantized(detail: Detail) -> bool:
    return bool(detail["quantization"][0]) and np.dtype(detail["dtype"]).kind in "iu"


def _stored(values: Array, detail: Detail) -> Array:
    """Real inputs as the model's element type, saturated; other inputs cast."""
    if not _is_quantized(detail):
        return np.ascontiguousarray(values, dtype=detail["dtype"])
    scale, zero_point = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    steps = np.rint(values / np.float32(scale)) + zero_point
    return np.asarray(np.clip(steps, limits.min, limits.max).astype(detail["dtype"]))


def _real(values: Array, detail: Detail) -> Array:
    if not _is_quantized(detail):
        return values
    scale, zero_point = detail["quantization"]
    return np.asarray((values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale))
