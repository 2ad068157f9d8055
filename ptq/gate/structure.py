"""Structure: what of a case really runs in integer, and the verdict on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ptq.backends.protocol import Census
from ptq.cases import Case
from ptq.gate.verdict import Verdict


@dataclass(frozen=True)
class Structure:
    """A census and what the case's bar makes of it."""

    case: Case
    census: Census
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        """Flat, as the report's ``structure`` has it."""
        return {
            "id": self.case.id,
            **self.case.fields(),
            **asdict(self.census),
            "integer_share": self.census.integer_share,
            "verdict": self.verdict.name,
            "reason": self.verdict.reason,
            "red": self.verdict.red,
        }
