"""Images: labelled pictures as a reader returns them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ptq.data.samples import Float32, Labels

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled RGB images.

    Parameters
    ----------
    pixels: uint8, shape (N, H, W, 3), NHWC, 0..255: a quarter of the memory of what the model takes.
    labels: int64, shape (N,), indices into `class_names`.
    class_names: one name a class.
    name: what error messages call them, e.g. ``cifar10 train``.
    """

    pixels: npt.NDArray[np.uint8]
    labels: Labels
    class_names: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def inputs(self) -> Float32:
        """The images as float32 NHWC, raw 0..255, not normalised; a new array on each call."""
        return self.pixels.astype(np.float32)
