"""Letterbox: an image scaled into a square with its aspect kept, the rest padded; boxes go there and back.

The recipe is the one Ultralytics trains and validates YOLO with (``LetterBox``, scale up allowed, centred), equal
to the pixel; a `Recipe` says where another detector differs:

1. decode to BGR, uint8 (grey and CMYK are converted, an EXIF orientation is applied), by OpenCV;
2. ``r = min(size / height, size / width)``; the new sides are ``max(round(side * r), 1)``;
3. ``cv2.resize`` with ``INTER_LINEAR`` unless the size is the same already;
4. half of what is missing goes to each side: ``round(half - 0.1)`` before, ``round(half + 0.1)`` after, grey 114;
5. BGR to RGB, HWC to CHW, float32, divided by 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptq.data.content import read_bytes
from ptq.data.image_header import ImageHeader, image_header
from ptq.data.samples import Float32
from ptq.errors import BadData

Image = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float64]

PAD = 114
LARGEST_FILE = 512 << 20
"""Bytes of an image file."""


@dataclass(frozen=True)
class Letterbox:
    """Where an image of `width` x `height` pixels lies in a square of `size` pixels: `centred`, or at the top left.

    Each axis has a scale of its own, the rounded side over the side: one common ratio is wrong by up to half a
    pixel of the square, hence by more than a pixel of a large image, and wildly so where a thin side is kept at 1.
    """

    width: int
    height: int
    size: int = 640
    centred: bool = True

    @property
    def inner(self) -> tuple[int, int]:
        """(width, height) of the scaled image inside the square, in pixels, each at least 1."""
        ratio = min(self.size / self.height, self.size / self.width)
        return max(round(self.width * ratio), 1), max(round(self.height * ratio), 1)

    @property
    def offset(self) -> tuple[int, int]:
        """(left, top): columns and rows of padding before the image."""
        return (_before(self.size - self.inner[0]), _before(self.size - self.inner[1])) if self.centred else (0, 0)

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y): pixels of the square per pixel of the image."""
        return self.inner[0] / self.width, self.inner[1] / self.height

    def place(self, boxes: npt.ArrayLike) -> Boxes:
        """Boxes (N, 4) as x1, y1, x2, y2 in pixels of the image, in pixels of the square."""
        return np.asarray(boxes, dtype=np.float64) * (self.scale * 2) + self.offset * 2

    def restore(self, boxes: npt.ArrayLike) -> Boxes:
        """The inverse of `place`, cut at the image's edges: where a detector's boxes lie in the image."""
        moved = (np.asarray(boxes, dtype=np.float64) - self.offset * 2) / (self.scale * 2)
        cut: Boxes = np.clip(moved, 0.0, (self.width, self.height) * 2)
        return cut

    def apply(self, image: Image) -> Image:
        """The image (height, width, 3) in its square (size, size, 3), uint8, channels in the order they came."""
        import cv2

        if image.shape[:2] != (self.height, self.width):
            raise BadData(f"image is {image.shape[1]}x{image.shape[0]}, but should be {self.width}x{self.height}")
        if self.inner != (self.width, self.height):
            image = cv2.resize(image, self.inner, interpolation=cv2.INTER_LINEAR)
        square = np.full((self.size, self.size, 3), PAD, dtype=np.uint8)
        left, top = self.offset
        square[top : top + self.inner[1], left : left + self.inner[0]] = image
        return square


@dataclass(frozen=True)
class Recipe:
    """How an image becomes a detector's input: the `order` of channels, ``RGB`` or ``BGR``; what 255 becomes, `high`, 1
    or 255; `centred` in the square, or at its top left as YOLOX has it. `BadData` for another order.
    """

    order: str = "RGB"
    high: float = 1.0
    centred: bool = True

    def __post_init__(self) -> None:
        if self.order not in ("RGB", "BGR"):
            raise BadData(f"recipe: order={self.order!r}, but should be RGB or BGR")

    @property
    def place(self) -> str:
        """Where in the square an image lies, in words."""
        return "centred" if self.centred else "at the top left"

    def __str__(self) -> str:
        scale = "255" if self.high == 1 else f"255 * {self.high:g}"
        return f"cv2 BGR; letterbox INTER_LINEAR pad {PAD} {self.place}; {self.order} CHW float32 / {scale}"

    def network_input(self, square: Image) -> Float32:
        """A BGR square (size, size, 3) uint8 as the detector takes it: (3, size, size), float32 in 0..`high`."""
        ordered = square if self.order == "BGR" else square[:, :, ::-1]
        values = np.ascontiguousarray(ordered.transpose(2, 0, 1), dtype=np.float32)
        return values if self.high == 255 else values / np.float32(255) * np.float32(self.high)


TRAINED = Recipe()
"""Ultralytics' own."""


def letterbox(image: Image, size: int = 640) -> Image:
    """`image` (H, W, 3) uint8 in a square (size, size, 3), uint8, by the module's recipe."""
    return Letterbox(image.shape[1], image.shape[0], size).apply(image)


def read_image(path: Path) -> Image:
    """The image of a file, (H, W, 3) BGR uint8; grey, CMYK and palettes are converted, alpha is dropped.

    Raises `BadData` as `image_content` does, and for what cannot be decoded.
    """
    import cv2

    data, _ = image_content(path)
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise BadData(f"{path}: OpenCV cannot decode it ({len(data)} bytes), but should be an image: is it corrupt?")
    decoded: Image = image
    return decoded


def image_content(path: Path) -> tuple[bytes, ImageHeader]:
    """The bytes of an image file and what they claim to be, both within their limits: none of it is decoded.

    Raises `BadData`, naming the file, when it is absent, empty, larger than `LARGEST_FILE`, or as `image_header` says.
    OpenCV by itself fills what a truncated JPEG lacks with grey and goes on.
    """
    try:
        data = read_bytes(path, LARGEST_FILE)
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror}), but should be an image") from error
    if not data:
        raise BadData(f"{path}: 0 bytes, but should be an image: copy it again")
    return data, image_header(data, path)


def _before(missing: int) -> int:
    return round(missing / 2 - 0.1)
