"""Conversion of a Keras model to TFLite by TensorFlow's own converter, float or fully int8.

It runs in a process of its own, see `ptq.models.tensorflow_process`.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptq.errors import BadModel, NotInstalled
from ptq.models.keras_file import load_keras
from ptq.models.tensorflow_process import answer, ask, one_line
from ptq.samples import Float32, Samples
from ptq.store import write_bytes

if TYPE_CHECKING:
    import tensorflow as tf

ENDS = ("int8", "uint8", "float32")
"""What a quantized model may take and return."""


def convert_float(source: Path, out: Path) -> None:
    """Write the Keras model `source` as float TFLite to `out`; raises as `convert_int8` does."""
    _run({"source": str(source), "out": str(out)})


def convert_int8(source: Path, out: Path, samples: Samples, per_channel: bool, ends: str = "int8") -> None:
    """Write `source` with int8 weights and activations to `out`, ranges from all `samples`, one at a time.

    `ends` is the element type of input and output, one of `ENDS`; the integers between are int8 in any case. Raises
    `NotInstalled` without tensorflow, `BadModel` when the file is not a Keras model of Keras's own layers or the
    converter refuses it.
    """
    with tempfile.TemporaryDirectory(prefix="ptq-tflite-") as folder:
        inputs = Path(folder) / "samples.npy"
        first = next(iter(samples.batches(1)))
        kept = np.lib.format.open_memmap(inputs, "w+", np.float32, (len(samples), *first.shape[1:]))
        start = 0
        for batch in samples.batches(64):
            kept[start : start + len(batch)] = batch
            start += len(batch)
        kept.flush()
        job = {"source": str(source), "out": str(out), "samples": str(inputs), "ends": ends}
        _run({**job, "per_channel": per_channel})


def _run(job: dict[str, Any]) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        raise NotInstalled("tensorflow is needed to convert to TFLite: not installed: pip install 'ptq[tf]'")
    ask("ptq.backends.tflite_convert", job)


def _converter(job: dict[str, Any]) -> tf.lite.TFLiteConverter:
    source = Path(job["source"])
    import tensorflow as tf

    model = load_keras(source)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if "samples" not in job:
        return converter
    inputs = np.load(job["samples"], mmap_mode="r", allow_pickle=False)

    def representative() -> Iterator[list[Float32]]:
        for each in inputs:
            yield [np.array(each[None])]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    ends = {"int8": tf.int8, "uint8": tf.uint8, "float32": tf.float32}[job["ends"]]
    converter.inference_input_type = converter.inference_output_type = ends
    # The only switch there is; without it weights are quantized per channel.
    converter._experimental_disable_per_channel = not job["per_channel"]
    return converter


def _work(job: dict[str, Any]) -> dict[str, Any]:
    """Does in its own process what was asked."""
    converter = _converter(job)
    try:
        content = converter.convert()
    # The converter raises ConverterError, ValueError, RuntimeError, ...
    except Exception as error:
        raise BadModel(f"{job['source']}: TFLite's converter refuses it ({one_line(error)})") from error
    write_bytes(Path(job["out"]), bytes(content))
    return {}


if __name__ == "__main__":
    answer(_work)
