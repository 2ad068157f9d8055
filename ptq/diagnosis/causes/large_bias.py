"""A bias that does not fit 32 bits at the scale it must have: that of its layer's input times that of its weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ptq.diagnosis.evidence import Evidence
from ptq.diagnosis.finding import Cause, Finding

LARGEST = 2.0**31 - 1


def find(evidence: Evidence) -> Iterable[Finding]:
    """Layers one of whose biases is beyond the range of int32."""
    from onnx import numpy_helper

    for each in evidence.weights:
        node = each.node
        held = evidence.graph.initializers.get(node.input[2]) if len(node.input) > 2 else None
        if held is None or node.input[0] not in evidence.ranges:
            continue
        low, high = evidence.ranges[node.input[0]]
        step = (high - low) / 255 * np.asarray(each.scale, np.float64)
        steps: NDArray[np.float64] = np.abs(numpy_helper.to_array(held)) / step
        if steps.max() > LARGEST:
            channel = int(steps.argmax())
            yield Finding(
                "large_bias", node.name or node.output[0],
                f"has in channel {channel} a bias of {float(steps.max()):.3g} steps of its scale, beyond int32's "
                f"{LARGEST:.3g}: it is cut off, or its weights get a coarser scale",
                "keep it in float (exclude)", evidence.place.get(node.output[0], -1), strength=0.75,
                sqnr_db=0.0, numbers={"channel": channel, "steps": float(steps.max())},
            )  # fmt: skip


CAUSE = Cause("large_bias", find)
