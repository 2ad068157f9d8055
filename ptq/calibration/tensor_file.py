"""A calibration set as one tensor on disk: .npy, or .npz keyed by the model's input name. Streamed, never pickled."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ptq.contract import InputContract
from ptq.errors import BadData, PtqError
from ptq.samples import Float32, Samples

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say: the same content gives the same bytes


def write_tensor(
    out: Path,
    samples: Samples,
    contract: InputContract | None,
    key: str,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the inputs of `samples` as one float32 array of shape (N, ...) to `out`, ``.npy`` or ``.npz``.

    One input is in memory at a time, checked against `contract` (`ContractBroken`; None: unchecked) and written;
    `out` appears only when it is whole, and the same samples give the same bytes. `key` names the array in an .npz:
    the model's input. `advance` is told the number of inputs just written.
    """
    if out.suffix not in (".npy", ".npz"):
        raise PtqError(f"{out}: ends in {out.suffix!r}, but should end in .npy (one tensor) or .npz (by input name)")
    with _appearing(out) as file:
        if out.suffix == ".npy":
            _stream(file, samples, contract, advance)
        else:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                member = zipfile.ZipInfo(f"{key}.npy", date_time=_LONG_AGO)
                with archive.open(member, "w", force_zip64=True) as inside:
                    _stream(inside, samples, contract, advance)


def read_tensor(path: Path, key: str | None = None) -> Float32:
    """The array of a file `write_tensor` or another tool wrote: float32 (N, ...), mapped from disk for .npy.

    Raises `BadData` for a file that is no such array, would have to be unpickled, or has not the one `key` asked for.
    """
    try:
        loaded: Any = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
        if isinstance(loaded, np.ndarray):
            array = loaded
        else:
            with loaded as archive:
                names = sorted(archive.files)
                if (len(names) != 1) if key is None else (key not in names):
                    raise BadData(
                        f"{path}: holds {', '.join(names) or 'nothing'}, but should hold {key or 'one array'}"
                    )
                array = archive[key or names[0]]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadData(f"{path}: cannot be read as a calibration tensor ({error})") from error
    if not isinstance(array, np.ndarray):  # a member of the archive that is no array comes back as bytes
        raise BadData(f"{path}: holds something else than an array, but should hold float32 of shape (N, ...)")
    if array.dtype != np.float32 or array.ndim < 2:
        raise BadData(f"{path}: {array.dtype} of shape {array.shape}, but should be float32 of shape (N, ...)")
    whole: Float32 = array
    return whole


def _stream(file: IO[bytes], samples: Samples, contract: InputContract | None, advance: Callable[[int], None]) -> None:
    shape: tuple[int, ...] | None = None
    written = 0
    for batch in samples.batches(1):
        if contract is not None:
            contract.check(batch)
        if shape is None:
            shape = batch.shape[1:]
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(samples), *shape)}
            np.lib.format.write_array_header_1_0(file, header)
        little: npt.NDArray[np.float32] = np.ascontiguousarray(batch, dtype="<f4")
        file.write(little.data.cast("B"))
        written += len(batch)
        advance(len(batch))
    if written != len(samples):
        raise BadData(f"{written} inputs were read, but {len(samples)} were announced")


@contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes its name only when the block ends without an error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except OSError as error:
        raise PtqError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise PtqError(f"{path}: cannot be written ({error.strerror or error})") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
