"""Conversion of a Keras model or a SavedModel to TFLite by TensorFlow's own converter, float or fully int8.

It runs in a process of its own, see `ptq.models.tensorflow_process`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptq.data.batch import Array, as_batch
from ptq.data.samples import Samples
from ptq.errors import BadModel, NotInstalled, Unsupported, one_line
from ptq.files import scratch, write_bytes
from ptq.models import from_saved_model
from ptq.models.keras_file import load_keras
from ptq.models.tensorflow_process import answer, ask

if TYPE_CHECKING:
    import tensorflow as tf

ENDS = ("int8", "uint8", "float32")
"""What a quantized model may take and return."""
_AT_A_TIME = 16


def convert_float(source: Path, out: Path) -> None:
    """Write the Keras file or SavedModel folder `source` as float TFLite to `out`; raises as `convert_int8` does."""
    _run({"source": str(source.absolute()), "out": str(out.absolute())})


def convert_int8(source: Path, out: Path, samples: Samples, per_channel: bool, ends: str = "int8") -> None:
    """Write `source` with int8 weights and activations to `out`, ranges from all `samples`, one at a time.

    `ends` is the element type of input and output, one of `ENDS`; the integers between are int8 in any case, and an
    input of integers stays what it is. Raises `NotInstalled` without tensorflow, `BadModel` when the source is not a
    Keras model of Keras's own layers or a SavedModel that only computes, `Unsupported` when the converter refuses it.
    """
    with scratch() as folder:
        names: list[str] = []
        for number, batch in enumerate(map(as_batch, samples.batches(_AT_A_TIME))):
            names = list(batch)
            for at, values in enumerate(batch.values()):
                np.save(folder / f"{number:06}-{at}.npy", values, allow_pickle=False)
        job = {"source": str(source.absolute()), "out": str(out.absolute()), "samples": str(folder), "names": names}
        _run({**job, "ends": ends, "per_channel": per_channel})


def _run(job: dict[str, Any]) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        raise NotInstalled("tensorflow is needed to convert to TFLite: not installed: pip install 'ptq[tf]'")
    ask("ptq.backends.tflite.convert", job)


def _samples(job: dict[str, Any]) -> Iterator[list[Array] | dict[str, Array]]:
    """One sample after the other: by input name where there are several."""
    folder, names = Path(job["samples"]), job["names"]
    for first in sorted(folder.glob("*-0.npy")):
        files = [first.with_name(first.name.replace("-0.npy", f"-{at}.npy")) for at in range(len(names))]
        columns = [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]
        for row in zip(*columns, strict=True):
            sample = [np.array(values[None]) for values in row]
            yield sample if len(names) == 1 else dict(zip(names, sample, strict=True))


def _converter(job: dict[str, Any]) -> tf.lite.TFLiteConverter:
    source = Path(job["source"])
    import tensorflow as tf

    if source.is_dir():
        from_saved_model.check(source)
        try:
            converter = tf.lite.TFLiteConverter.from_saved_model(str(source))
        except Exception as error:
            raise BadModel(f"{source}: {from_saved_model.cannot_load(error)}") from error
    else:
        converter = tf.lite.TFLiteConverter.from_keras_model(load_keras(source))
    if "samples" not in job:
        return converter
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: _samples(job)
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
        raise Unsupported(f"{job['source']}: TFLite's converter refuses it ({one_line(error)})") from error
    write_bytes(Path(job["out"]), bytes(content))
    return {}


if __name__ == "__main__":
    answer(_work)
