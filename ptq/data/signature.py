"""Signature: the named inputs and outputs of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """One input or output: `shape` has None for every dimension that varies, `dtype` is numpy's name of its type.

    `axis` is the dimension of an output that counts samples, where the model's names of dimensions say that it is not
    the first: recognizers of text and speech often give (time, sample, letter).
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    axis: int = 0

    def __str__(self) -> str:
        dims = ", ".join("?" if size is None else str(size) for size in self.shape)
        name = self.name if len(self.name) <= 80 else f"{self.name[:79]}…"
        return f"{name!r} {self.dtype} ({dims})"


@dataclass(frozen=True)
class Signature:
    """What a model takes and returns, in the model's own order; constants are not inputs."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def batch(self) -> int | None:
        """The fixed number of samples a call takes, None when it varies."""
        sizes = {tensor.shape[0] for tensor in self.inputs if tensor.shape}
        return next(iter(sizes)) if len(sizes) == 1 else None
