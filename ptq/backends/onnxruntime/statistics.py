"""statistics: what one pass over the calibration samples sees of every activation of an ONNX model."""

from __future__ import annotations

from pathlib import Path

from ptq.backends.onnxruntime.observe import each_batch, expose
from ptq.backends.onnxruntime.same_range import same_range
from ptq.calibration.statistics import TensorStatistics, count, look
from ptq.models.onnx_file import load
from ptq.samples import Samples

_BATCH = 48  # counting costs a little for every tensor of every batch, and pays for larger ones


def statistics(model: Path, samples: Samples) -> dict[str, TensorStatistics]:
    """Statistics of the input and of every float activation, by tensor name.

    A tensor in `same_range` is given those of its other. Raises `BadModel` for a file that is no ONNX model with one
    input, `BadData` when the samples do not fit it or a value is not finite.
    """
    other = same_range(load(model).graph)
    exposed = expose(model, without=other)
    seen = count(each_batch(exposed, samples, look, _BATCH, spare=1))
    return seen | {name: seen[source] for name, source in other.items() if source in seen}
