from __future__ import annotations
from dataclasses import dataclass
from typing import Any
@dataclass(frozen=True)
class Check:
    name: str
    run: Any
def checks() -> tuple[Check, ...]:
    return (Check("x", lambda s: None),)
def subject(p: Any) -> Any:
    return p
