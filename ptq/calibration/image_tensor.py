"""ImageTensor: a detector's calibration tensor, drawn from a folder of images: what `ptq calibrate coco` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ptq.data.contract import InputContract
from ptq.data.image_files import ImageFiles, list_images, read_list, sample, write_list
from ptq.data.tensor_file import write_tensor
from ptq.errors import BadModel
from ptq.models.onnx_file import signature

_SIZE, _KEY = 640, "images"


@dataclass(frozen=True)
class ImageTensor:
    """How to make the tensor.

    Parameters
    ----------
    images: folder the images are drawn from, sorted by name.
    out: .npy or .npz to write, float32 (count, 3, size, size), RGB in [0, 1].
    list_path: which images, one path a line relative to `root`. When it exists it is used as it is, and `count` and
        `seed` are not; otherwise it is written.
    root: the data root.
    count, seed: how many images, and what they are drawn with.
    model: ONNX file whose input gives the size and the name in an .npz; 640 and ``images`` without.
    """

    images: Path
    out: Path
    list_path: Path
    root: Path
    count: int = 100
    seed: int = 42
    model: Path | None = None

    def write(self, console: Console) -> ImageFiles:
        """Write list and tensor, with a progress bar on `console`; returns what was written.

        Same images, same list: same bytes. Raises a `PtqError` for whatever is not as it should be, before or
        without leaving a file at `out`; a list is written only once its tensor is.
        """
        size, key = self._input()
        listed = self.list_path.exists()
        if listed:
            samples = ImageFiles(read_list(self.list_path, self.root), size)
        else:
            samples = ImageFiles(sample(list_images(self.images), self.count, self.seed), size, seed=self.seed)
        contract = InputContract((None, 3, size, size), "NCHW", low=0.0, high=1.0)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(f"letterbox to {size}", total=len(samples))
            write_tensor(self.out, samples, contract, key, lambda done: progress.advance(task, done))
        if not listed:
            write_list(self.list_path, samples.paths, self.root)
        return samples

    def _input(self) -> tuple[int, str]:
        if self.model is None:
            return _SIZE, _KEY
        found = signature(self.model).inputs[0]
        shape = found.shape
        if found.dtype != "float32" or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise BadModel(f"{self.model}: its input is {found}, but should be float32 (?, 3, size, size)")
        return shape[2] or _SIZE, found.name
