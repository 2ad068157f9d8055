"""Patches: the vectors a layer multiplies its weights with, and their moments over the calibration samples."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.data.array_files import read_arrays
from ptq.data.samples import Float32
from ptq.errors import BadData, one_line
from ptq.files import write_bytes

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """How a convolution reads its input; no kernel for a matrix product.

    Parameters
    ----------
    kernel, strides, dilations: one number a spatial dimension.
    before, after: zeros padded on either side of each spatial dimension.
    groups: of channels that are read apart.
    """

    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    groups: int = 1

    @property
    def outputs(self) -> Window:
        """The window that reads the outputs of this one, place by place in the same order."""
        ones, zeros = (1,) * len(self.kernel), (0,) * len(self.kernel)
        return Window(ones, ones, ones, zeros, zeros, self.groups)

    def patches(self, images: Float32, most: int, first: int) -> Float32:
        """At most `most` vectors of each sample, evenly spread, shape (groups, n, length).

        `images` has shape (samples, channels, *spatial), or (samples, ..., length) for a matrix product; `first` is the
        index of the first one, which varies where vectors are taken. The order inside a vector is that of an ONNX
        convolution's weights: channel, then kernel.
        """
        if not self.kernel:
            rows = images.reshape(len(images), -1, images.shape[-1])
            which, where = _spread(len(rows), rows.shape[1], most, first)
            return rows[which, where].reshape(1, -1, rows.shape[-1])
        padded = np.pad(images, [(0, 0), (0, 0), *zip(self.before, self.after, strict=True)])
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, images.ndim)))
        steps = (1, 1, *self.strides, *self.dilations)
        windows = windows[tuple(slice(None, None, each) for each in steps)]
        spatial = windows.shape[2 : images.ndim]
        which, flat = _spread(len(images), int(np.prod(spatial)), most, first)
        places: tuple[Any, ...] = (which, slice(None), *np.unravel_index(flat, spatial))
        chosen = windows[places]  # (images, most, channels, *kernel)
        length = chosen.shape[2] // self.groups * int(np.prod(self.kernel))
        return np.ascontiguousarray(np.moveaxis(chosen.reshape(-1, self.groups, length), 1, 0))


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean, shape (groups, length), and covariance, shape (groups, length, length), of a layer's patches, float64."""

    mean: Doubles
    covariance: Doubles


class Sums:
    """Sums of patches, batch by batch, that become `Moments`.

    `count` patches; `total` of shape (groups, length), `products` of shape (groups, length, length), float64, both
    without dimensions where nothing was taken in.
    """

    def __init__(self, count: int = 0, total: Doubles | None = None, products: Doubles | None = None) -> None:
        self.count = count
        self.total = np.zeros(()) if total is None else total
        self.products = np.zeros(()) if products is None else products

    def add(self, patches: Float32) -> None:
        """Take in patches of shape (groups, n, length)."""
        self.count += patches.shape[1]
        self.total = self.total + patches.sum(axis=1, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large is found when they are finished
            products = patches.transpose(0, 2, 1) @ patches
        self._add(products)

    def take(self, other: Sums) -> None:
        """Take in what another summed up. Sums of floats depend on their order: give blocks in theirs."""
        self.count += other.count
        self.total = self.total + other.total
        with np.errstate(over="ignore", invalid="ignore"):
            self._add(other.products)

    def finish(self) -> Moments:
        """The moments of all that was taken in."""
        mean = self.total / self.count
        return Moments(mean, self.products / self.count - mean[:, :, None] * mean[:, None, :])

    def _add(self, products: npt.NDArray[Any]) -> None:
        own = self.products.ndim and self.products.flags.writeable  # not of a file
        self.products = np.add(self.products, products, out=self.products if own else None)


def save_sums(path: Path, sums: Mapping[str, Sums]) -> None:
    """Write sums by name, every bit of them: an .npz without pickles."""
    content, names = io.BytesIO(), sorted(sums)
    arrays: dict[str, npt.NDArray[Any]] = {"counts": np.array([sums[name].count for name in names], np.int64)}
    for index, name in enumerate(names):
        arrays |= {f"total{index}": sums[name].total, f"products{index}": sums[name].products}
    np.savez(content, names=np.array(names, dtype=np.str_), **arrays)  # type: ignore[arg-type]
    write_bytes(path, content.getvalue())


def load_sums(path: Path) -> dict[str, Sums]:
    """What `save_sums` wrote. Raises `BadData` for another file."""
    try:
        file = read_arrays(path)
        return {
            str(name): Sums(int(file["counts"][index]), file[f"total{index}"], file[f"products{index}"])
            for index, name in enumerate(file["names"])
        }
    except (BadData, ValueError, KeyError, TypeError, IndexError) as error:
        raise BadData(f"{path}: cannot be read as sums ({one_line(error)}), calibrate again") from error


def save_moments(path: Path, moments: Mapping[str, Moments]) -> None:
    """Write moments by name, in float32: an .npz without pickles, the same bytes for the same moments."""
    content = io.BytesIO()
    names = sorted(moments)
    arrays = {f"mean{index}": moments[name].mean.astype(np.float32) for index, name in enumerate(names)}
    arrays |= {f"covariance{index}": moments[name].covariance.astype(np.float32) for index, name in enumerate(names)}
    np.savez(content, names=np.array(names, dtype=np.str_), **arrays)  # type: ignore[arg-type]
    write_bytes(path, content.getvalue())


def load_moments(path: Path) -> dict[str, Moments]:
    """What `save_moments` wrote. Raises `BadData` for another file."""
    try:
        file = read_arrays(path)
        return {str(name): _moments(file, index) for index, name in enumerate(file["names"])}
    except (BadData, ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path}: cannot be read as moments ({one_line(error)}), calibrate again") from error


def _moments(file: Mapping[str, npt.NDArray[Any]], index: int) -> Moments:
    mean, covariance = file[f"mean{index}"], file[f"covariance{index}"]
    if mean.ndim != 2 or covariance.shape != (*mean.shape, mean.shape[1]):
        raise ValueError(f"a mean of shape {mean.shape} with a covariance of shape {covariance.shape}")
    return Moments(mean.astype(np.float64), covariance.astype(np.float64))


def _spread(images: int, size: int, most: int, first: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Indices of images, shape (images, 1), and of `most` of the `size` positions in each, shape (images, most)."""
    which = np.arange(images)[:, None]
    turn = (which + first) * 7919 if size > most else 0 * which
    kept = min(size, most)
    return which, (np.arange(kept) * size // kept + turn) % size
