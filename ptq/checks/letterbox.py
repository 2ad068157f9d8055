"""check_letterbox: whether what goes into a detector really is a letterboxed image."""

from __future__ import annotations

import numpy as np

from ptq.data.coco import CocoImages
from ptq.data.contract import ContractBroken
from ptq.data.letterbox import PAD
from ptq.data.samples import Float32, Samples
from ptq.errors import BadData

_IMAGES = 32


def check_letterbox(samples: Samples) -> None:
    """Raise `ContractBroken` unless the padding lies where the image's size says, and holds the grey 114 of 255.

    An image stretched over its padding has lost its aspect; one that leaves more padding than it should has another
    scale or place. Looks at the first 32 images; they must not all be square, which would show nothing.
    """
    if not isinstance(samples, CocoImages):
        raise BadData("samples do not know the size of their images, but a letterbox check needs it")
    padded = 0
    for index, batch in zip(range(_IMAGES), samples.batches(1), strict=False):
        padded += _check(samples, index, batch[0])
    if not padded:
        raise BadData(f"the first {min(_IMAGES, len(samples))} images are square, but at least 1 should need padding")


def _check(samples: CocoImages, index: int, image: Float32) -> bool:
    box = samples.letterbox(index)
    (left, top), (width, height) = box.offset, box.inner
    outside = np.ones((box.size, box.size), dtype=np.bool_)
    outside[top : top + height, left : left + width] = False
    where = f"{samples.paths[index].name}: {box.width}x{box.height} pixels"
    pad = samples.recipe.network_input(np.full((1, 1, 3), PAD, np.uint8)).flat[0]
    padding = image[:, outside]
    if padding.size and not (padding == padding.flat[0]).all():
        raise ContractBroken(
            f"{where} should leave all but {width}x{height} at ({left}, {top}) to padding, but there are pixels of the "
            f"image; likely cause: stretched, so that its aspect is lost, or not {samples.recipe.place}"
        )
    if padding.size and padding.flat[0] != pad:
        raise ContractBroken(f"{where}: padding is {padding.flat[0]:.4g}, but should be {PAD} of 255, {pad:.4g}")
    inside = image[:, top : top + height, left : left + width]
    for name, line in (("row", inside[:, [0, -1], :]), ("column", inside[:, :, [0, -1]].swapaxes(1, 2))):
        if (line == pad).all(axis=(0, 2)).all():
            raise ContractBroken(
                f"{where} should fill {width}x{height} at ({left}, {top}), but its first and last {name} are padding; "
                "likely cause: not scaled up to the network's size"
            )
    return bool(padding.size)
