"""TFLite: `tf.lite.TFLiteConverter`, full integer, by ptq's backend `tflite`. It has one recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIRES = ("tensorflow", "ai-edge-litert", "ptq")
DTYPE, BACKEND, SUFFIX = "int8", "tflite", ".tflite"
SOURCE = True
"""It takes the model as it was given, which for ResNet8 is Keras, not as ONNX."""


def documented(model: Path, inputs: Mapping[str, npt.NDArray[np.float32]], out: Path) -> None:
    """int8, a weight scale a channel."""
    import ptq

    (images,) = inputs.values()  # Keras calls its input otherwise
    ptq.quantize(model, images, out=out, backend=BACKEND, dtype=DTYPE, method="minmax", granularity="channel")
