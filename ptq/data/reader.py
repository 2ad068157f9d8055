"""Reader: samples that are read from files by a function, known by both without being read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptq.data.samples import Samples


@dataclass(frozen=True)
class Reader:
    """What a workload may give for its samples where reading them costs.

    `read` returns the samples. `files` returns every file `read` looks at, or raises `NoData`. As long as neither the
    code of `read` nor a byte of these files changes, what was made of them is found again without reading them.
    """

    read: Callable[[], Samples]
    files: Callable[[], Sequence[Path]]

    def __call__(self) -> Samples:
        return self.read()
