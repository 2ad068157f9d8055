"""A case: one cell of the grid workload x backend x dtype x method x granularity."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ptq.errors import PtqError

FP32 = "fp32"
NONE = "none"
_WORD = re.compile(r"[a-z0-9_.]+")


@dataclass(frozen=True, order=True)
class Case:
    """One thing to judge.

    Parameters
    ----------
    workload, backend: names in their registries, e.g. ``cifar10``, ``onnxruntime``.
    dtype: ``fp32`` or a name for (activation, weight): ``int8`` = int8/int8, ``uint8`` = uint8/uint8,
        ``u8s8`` = uint8/int8.
    method: how ranges are chosen, e.g. ``minmax``; ``none`` for fp32; for an artifact made elsewhere, its name.
    granularity: of weight scales, ``tensor`` or ``channel``.
    exclude: which nodes stay in float, ``none`` or ``auto``.

    Raises `PtqError` when a field is not made of ``a-z 0-9 _ .``: ids are split at ``-``.
    """

    workload: str
    backend: str
    dtype: str
    method: str = NONE
    granularity: str = "tensor"
    exclude: str = NONE

    def __post_init__(self) -> None:
        for field, value in self.fields().items():
            if not _WORD.fullmatch(value):
                raise PtqError(f"case: {field}={value!r} should be made of a-z, 0-9, '_' and '.' only")

    def fields(self) -> dict[str, str]:
        """The fields by name, in order: what the `ptq` marker and the JSON carry."""
        return {
            "workload": self.workload,
            "backend": self.backend,
            "dtype": self.dtype,
            "method": self.method,
            "granularity": self.granularity,
            "exclude": self.exclude,
        }

    @property
    def id(self) -> str:
        """``workload-backend-dtype[-method][-channel][-auto]``; defaults are left out."""
        parts = [self.workload, self.backend, self.dtype]
        if self.method != NONE:
            parts.append(self.method)
        if self.granularity != "tensor":
            parts.append(self.granularity)
        if self.exclude != NONE:
            parts.append(self.exclude)
        return "-".join(parts)

    @property
    def is_float(self) -> bool:
        """Whether this is the float reference of its backend."""
        return self.dtype == FP32

    def __str__(self) -> str:
        return self.id
