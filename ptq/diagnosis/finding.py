"""Finding: one cause that the evidence speaks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptq.diagnosis.evidence import Evidence

DATA, LAYER, MACHINE = 0, 1, 2
"""What a cause lies in: the calibration data, which spoils every layer; one tensor or layer; the machine it runs on."""


@dataclass(frozen=True)
class Finding:
    """A cause, told of one tensor.

    Parameters
    ----------
    cause: its name, as the file is called.
    where: the node or tensor, by the float model's name. place: its place in the graph, from 0.
    what: what is wrong, with the numbers; it goes on where `where` ends. remedy: what helps.
    sqnr_db: what is left of the signal there, dB; None where nothing was measured.
    kind: of `DATA`, `LAYER`, `MACHINE`. strength: how sure this cause is against others of the same tensor, 0..1.
    numbers: the evidence, by name, as JSON has it.
    """

    cause: str
    where: str
    what: str
    remedy: str
    place: int = -1
    sqnr_db: float | None = None
    kind: int = LAYER
    strength: float = 0.5
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.where} {self.what}: {self.remedy}"

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "numbers": dict(self.numbers)}


@dataclass(frozen=True)
class Cause:
    """One cause: `find` says where the evidence speaks for it, nothing where it does not."""

    name: str
    find: Callable[[Evidence], Iterable[Finding]]
