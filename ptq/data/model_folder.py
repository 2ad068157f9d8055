"""Where a workload's files lie in the folder of data."""

from __future__ import annotations

from pathlib import Path

from ptq.errors import NoData


def data_folder(data: Path | None, holds: str) -> Path:
    """The folder of data; `NoData`, which says what it should hold, when none is named."""
    if data is None:
        raise NoData(f"no data: name the folder that holds {holds} with --ptq-data DIR or PTQ_DATA=DIR")
    return data


def model_file(data: Path | None, name: str, remedy: str) -> Path:
    """The file `name` in ``models/`` of the folder of data, or in the folder itself; `NoData` with the remedy."""
    folder = data_folder(data, f"models/{name}")
    for each in (folder / "models" / name, folder / name):
        if each.is_file():
            return each
    raise NoData(f"no {name} in {folder} or its models/; {remedy}")
