"""Pictures: a folder of image files as a classifier or an image network takes them."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ptq.data.image_files import ImageFiles, entries, list_images
from ptq.data.letterbox import Image, image_content, read_image
from ptq.data.samples import Labels
from ptq.data.signature import Signature
from ptq.errors import BadData, NotInstalled, one_line

LAYOUTS, RANGES, ORDERS = ("NHWC", "NCHW"), ("0..1", "0..255", "-1..1"), ("RGB", "BGR")


@dataclass(frozen=True)
class ImageOptions:
    """How images become inputs. Each step in this order.

    Parameters
    ----------
    crop: side of the central square that is cut out, as a share of the short side, e.g. 0.875, ImageNet's 224 of 256;
        None: nothing is.
    size: (height, width) in pixels every image is resized to, its aspect not kept; None: as it is, all of one size.
    order: of channels, ``RGB`` or ``BGR``.
    range: what 0..255 becomes: ``0..1``, ``0..255`` or ``-1..1``.
    mean, std: per channel, in the units of `range`: (x - mean) / std.
    layout: ``NHWC`` or ``NCHW``; None: as the model's input has 1 or 3 channels, else ``NHWC``.

    Raises `BadData` when one of these is not as said.
    """

    size: tuple[int, int] | None = None
    layout: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    range: str = "0..1"
    order: str = "RGB"
    crop: float | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("layout", self.layout or "NHWC", LAYOUTS), ("range", self.range, RANGES), ("order", self.order, ORDERS),
        ):  # fmt: skip
            if value not in known:
                raise BadData(f"images: {name}={value!r}, but should be one of {', '.join(known)}")
        if self.size is not None and (len(self.size) != 2 or not all(1 <= side <= 16384 for side in self.size)):
            raise BadData(f"images: size={self.size}, but should be (height, width) in pixels, each 1..16384")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise BadData(f"images: crop={self.crop}, but should be above 0 and at most 1, e.g. 0.875 for 224 of 256")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and (len(values) not in (1, 3) or not np.isfinite(values).all()):
                raise BadData(f"images: {name}={values}, but should be 1 or 3 finite numbers")
        if self.std is not None and min(self.std) <= 0:
            raise BadData(f"images: std={self.std}, but should be above 0")

    def __str__(self) -> str:
        crop = "" if self.crop is None else f"central {self.crop:g}, "
        size = "" if self.size is None else f"{'x'.join(map(str, self.size))} "
        more = "".join(f", {name} {list(values)}" for name in ("mean", "std") if (values := getattr(self, name)))
        layout = "" if self.layout is None else f"{self.layout} "
        return f"{crop}{size}{layout}{self.order} {self.range}{more}"


@dataclass(frozen=True, eq=False)
class Pictures(ImageFiles):
    """`Samples` over image files, decoded anew on every pass by OpenCV, or by Pillow where there is no OpenCV.

    `batches` gives (n, height, width, channels) or (n, channels, height, width) of `dtype`. `truth` is an index into
    `class_names` a file, int64 (N,), or None. Raises `BadData` for images of different size where no size was given.
    """

    options: ImageOptions = ImageOptions()
    channels: int = 3
    dtype: str = "float32"
    truth: Labels | None = None

    @property
    def targets(self) -> Any:
        return self.truth

    @cached_property
    def digest(self) -> str:
        whole = hashlib.sha256(f"{self.options!r} {self.channels} {self.dtype}".encode())
        for each in self.hashes():
            whole.update(bytes.fromhex(each))
        if self.truth is not None:
            whole.update(self.truth.tobytes())
        return whole.hexdigest()

    def read(self, index: int) -> npt.NDArray[Any]:
        """Input number `index`, without the dimension of the batch."""
        options, path = self.options, self.paths[index]
        image = self._decoded(path)
        if options.size:
            image = _resized(image, options.size, smooth=options.crop is not None)
        elif image.shape[:2] != self._first_size:
            self._differs(path, image)
        pixels = _grey(image) if self.channels == 1 else image if options.order == "BGR" else image[:, :, ::-1]
        if options.layout == "NCHW":
            pixels = pixels.transpose(2, 0, 1)
        if self.dtype == "uint8":
            return np.ascontiguousarray(pixels)
        values = np.ascontiguousarray(pixels, dtype=np.float32)
        if options.range != "0..255":
            values = values / np.float32(255) if options.range == "0..1" else values / np.float32(127.5) - np.float32(1)
        return (values - self._per_channel(options.mean, 0)) / self._per_channel(options.std, 1)

    def _decoded(self, path: Path) -> Image:
        image, crop = _decoded(path), self.options.crop
        return image if crop is None else _centre(image, round(crop * min(image.shape[:2])) or 1)

    def _differs(self, path: Path, image: Image) -> NoReturn:
        sizes = [f"{height}x{width}" for height, width in (image.shape[:2], self._first_size)]
        raise BadData(
            f"{path}: {sizes[0]} pixels, but {self.paths[0].name} has {sizes[1]}: say what to resize to, "
            "--size HEIGHTxWIDTH (ImageOptions(size=...)), or, for a model of any size, give arrays (file.py:function)"
        )

    @cached_property
    def _first_size(self) -> tuple[int, ...]:
        return self._decoded(self.paths[0]).shape[:2]

    def _per_channel(self, values: tuple[float, ...] | None, default: float) -> npt.NDArray[np.float32]:
        array = np.asarray(values or (default,), dtype=np.float32)
        return array.reshape(-1, 1, 1) if self.options.layout == "NCHW" else array


def pictures(folder: Path, options: ImageOptions | None, signature: Signature | None) -> Pictures:
    """The images of a folder; those of its sub-folders, where it has any, with the sub-folder as their class.

    Raises `NoData` when there is no image, `BadData` when there are images beside sub-folders of images, or the model
    takes no images.
    """
    options = options or ImageOptions()
    layout, channels, dtype = _wanted(folder, options, signature)
    options = replace(options, layout=layout)
    kinds = class_folders(folder)
    if not kinds:
        return Pictures(list_images(folder), options=options, channels=channels, dtype=dtype)
    files = [list_images(kind) for kind in kinds]
    truth = np.repeat(np.arange(len(kinds), dtype=np.int64), [len(paths) for paths in files])
    paths = tuple(path for some in files for path in some)
    names = tuple(kind.name for kind in kinds)
    if strange := [name for name in names if not name.isprintable()]:
        raise BadData(f"{folder}: {strange[0]!r} is a class, but its name should be of printable characters: rename it")
    return Pictures(paths, class_names=names, options=options, channels=channels, dtype=dtype, truth=truth)


def class_folders(folder: Path) -> list[Path]:
    """The sub-folders of a folder, sorted by name; hidden ones are none."""
    return [each for each in entries(folder) if each.is_dir() and not each.name.startswith(".")]


def _wanted(folder: Path, options: ImageOptions, signature: Signature | None) -> tuple[str, int, str]:
    """(layout, channels, dtype) of the model's image input."""
    if signature is None:
        return options.layout or "NHWC", 3, "float32"
    entry = signature.inputs[0]
    if len(signature.inputs) != 1 or len(entry.shape) != 4:
        raise BadData(
            f"{folder}: a folder of images, but the model takes {', '.join(map(str, signature.inputs))}: give an .npz "
            "with an array an input"
        )
    axes = {"NCHW": entry.shape[1], "NHWC": entry.shape[3]}
    layout = options.layout or next((name for name, size in axes.items() if size in (1, 3)), "NHWC")
    channels = axes[layout] or 3
    if channels not in (1, 3):
        other = "NHWC" if layout == "NCHW" else "NCHW"
        raise BadData(f"{folder}: {layout} gives {entry} {channels} channels, but should be 1 or 3: try layout {other}")
    plain = options.range == "0..255" and options.mean is None and options.std is None
    if entry.dtype == "uint8" and not plain:
        raise BadData(f"{folder}: the model takes {entry}: say --range 0..255, without --mean and --std")
    return layout, channels, "uint8" if entry.dtype == "uint8" else "float32"


def _decoded(path: Path) -> Image:
    """(H, W, 3) BGR uint8."""
    try:
        return read_image(path)
    except ImportError:
        return _with_pillow(path)


def _with_pillow(path: Path) -> Image:
    try:
        from PIL import Image as pillow
        from PIL import ImageOps
    except ImportError as error:
        raise NotInstalled(f"{path}: images need OpenCV or Pillow: pip install 'ptq[coco]', or pillow") from error
    data, header = image_content(path)
    try:
        with pillow.open(io.BytesIO(data), formats=[header.format]) as opened:
            # a palette or an alpha channel is dropped, an orientation applied, as OpenCV does
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))[:, :, ::-1]
    except Exception as error:
        raise BadData(f"{path}: Pillow cannot decode it ({one_line(error)}), but should be an image") from error


def _centre(image: Image, side: int) -> Image:
    """The central square of `side` pixels."""
    top, left = ((whole - side) // 2 for whole in image.shape[:2])
    return image[top : top + side, left : left + side]


def _resized(image: Image, size: tuple[int, int], smooth: bool) -> Image:
    """Averaged over areas where it shrinks, else linear between pixels, or cubic where it is to be `smooth`."""
    if image.shape[:2] == size:
        return image
    height, width = size
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    try:
        import cv2
    except ImportError:
        from PIL import Image as pillow

        grows = pillow.Resampling.BICUBIC if smooth else pillow.Resampling.BILINEAR
        how = pillow.Resampling.BOX if shrinks else grows
        return np.asarray(pillow.fromarray(np.ascontiguousarray(image)).resize((width, height), how))
    grows = cv2.INTER_CUBIC if smooth else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else grows))


def _grey(image: Image) -> Image:
    """(H, W, 1), by the weights of ITU-R BT.601."""
    grey: Image = np.rint(image @ np.array([0.114, 0.587, 0.299])).astype(np.uint8)[:, :, None]
    return grey
