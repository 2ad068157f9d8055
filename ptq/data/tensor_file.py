"""A calibration set as arrays on disk: .npz by the model's input names, or .npy. Streamed, never pickled."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ptq.data.batch import as_batch, only
from ptq.data.contract import InputContract
from ptq.data.samples import Samples
from ptq.errors import BadData, PtqError
from ptq.files import appearing

_LONGEST = 65_000  # bytes of a name in a zip archive, less its suffix
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say: the same content gives the same bytes


def write_tensors(
    out: Path,
    samples: Samples,
    contracts: Mapping[str, InputContract | None],
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the inputs of `samples` to `out`, one array of shape (N, ...) each: ``.npz``, or ``.npy`` for one input.

    `contracts` are by the names of the inputs to write, None where nothing is checked. One sample is in memory at a
    time, checked (`ContractBroken`) and written; `out` appears only when it is whole, and the same samples give the
    same bytes. The samples are read once an input; `advance` is told the number just written.

    Raises `BadData` for samples that differ in shape: one array cannot hold them.
    """
    if out.suffix not in (".npy", ".npz"):
        raise PtqError(f"{out}: ends in {out.suffix!r}, but should end in .npy (one tensor) or .npz (by input name)")
    if out.suffix == ".npy" and len(contracts) != 1:
        raise PtqError(f"{out}: holds one tensor, but there are {len(contracts)} inputs: it should end in .npz")
    if any(len(name.encode()) > _LONGEST for name in contracts):
        raise PtqError(f"{out}: an input has a name of more than {_LONGEST} bytes, which no .npz can hold: write .npy")
    with _appearing(out) as file:
        if out.suffix == ".npy":
            _stream(file, samples, *next(iter(contracts.items())), advance)
            return
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, contract in contracts.items():
                member = zipfile.ZipInfo(f"{name}.npy", date_time=_LONG_AGO)
                with archive.open(member, "w", force_zip64=True) as inside:
                    _stream(inside, samples, name, contract, advance)


def write_tensor(
    out: Path,
    samples: Samples,
    contract: InputContract | None,
    key: str,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """`write_tensors` of one input, called `key`."""
    write_tensors(out, samples, {key: contract}, advance)


def _stream(
    file: IO[bytes], samples: Samples, name: str, contract: InputContract | None, advance: Callable[[int], None]
) -> None:
    header: dict[str, Any] = {}
    written = 0
    for batch in map(as_batch, samples.batches(1)):
        values = batch[name] if name in batch else only(batch)
        if contract is not None:
            contract.check(values)
        little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        held: dict[str, Any] = {
            "descr": np.lib.format.dtype_to_descr(little.dtype),
            "shape": (len(samples), *little.shape[1:]),
        }
        if not header:
            header = held
            np.lib.format.write_array_header_1_0(file, {**held, "fortran_order": False})
        elif held != header:
            raise BadData(
                f"input {name!r}: sample {written} is {little.shape[1:]}, but one array needs one shape for all"
            )
        file.write(little.tobytes())
        written += len(little)
        advance(len(little))
    if written != len(samples):
        raise BadData(f"{written} inputs were read, but {len(samples)} were announced")


@contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    """`ptq.files.appearing`, whose failure is one line."""
    try:
        with appearing(path) as file:
            yield file
    except OSError as error:
        raise PtqError(f"{path}: cannot be written ({error.strerror or error})") from error
