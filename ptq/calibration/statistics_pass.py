"""statistics: what one pass over the calibration samples sees of every activation of an ONNX model."""

from __future__ import annotations

from pathlib import Path

from ptq.calibration.expose import expose
from ptq.calibration.observe import each_batch
from ptq.calibration.same_range import same_range
from ptq.calibration.statistics import TensorStatistics, count, look
from ptq.data.blocks import whole
from ptq.data.samples import Samples, order_of
from ptq.models.graph import Graph
from ptq.models.onnx_file import load

_BATCH = 48  # counting costs a little for every tensor of every batch, and pays for larger ones


def statistics(model: Path, samples: Samples) -> dict[str, TensorStatistics]:
    """Statistics of every float32 input and activation, by tensor name. Those of blocks add up to those of the whole.

    A tensor in `same_range` is given those of its other. Raises `BadModel` for a file that is no ONNX model that
    onnxruntime runs, `BadData` when the samples do not fit it or a value is not finite.
    """
    other = same_range(Graph(load(model).graph))
    exposed = expose(model, without=other)
    samples = whole(samples, exposed.fixed)
    seen = count(each_batch(exposed, samples, look, _BATCH, spare=1), order_of(samples))
    return seen | {name: seen[source] for name, source in other.items() if source in seen}
