"""Result: what judging one case gave. Its JSON form is the documented schema of `ptq.report.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ptq.cases import Case
from ptq.metrics.metric import SHARE

PASS, FAIL, UNRESOLVED = "pass", "fail", "unresolved"
UNSUPPORTED, NOT_INSTALLED, NO_DATA = "unsupported", "not_installed", "no_data"
JUDGED = frozenset({PASS, FAIL, UNRESOLVED})
"""Verdicts of a case that was measured; the others say why it was not."""
GIVEN, FLOAT_MODEL = "given", "float model"
NO_REFERENCE, NOT_QUANTIZED = "the float model is no reference", "nothing of it is quantized"
"""What the reason of a failure starts with that no bar excuses: there is nothing to compare."""


@dataclass(frozen=True)
class Result:
    """One case, measured and judged, or the reason why not.

    `verdict` is ``pass``, ``fail`` or ``unresolved`` of a case that was measured, else ``unsupported``,
    ``not_installed`` or ``no_data``; `reason` says why, `bar` what it was held to. `n` samples were scored, of which
    `correct` and `fp32_correct` were right; `agreement` is the share of equal decisions with FP32, `sqnr_db` that of
    the outputs, None when equal to the bit; `cosine` the mean cosine of embeddings with FP32's. `p` is of the paired
    test; `per_class`, `fp32_per_class` and `details` are the metric's. `size_bytes` and `fp32_size_bytes` are of the
    artifacts, `integer_share` in 0..1 of compute nodes.
    `calibration` says on what, `notes` what the backend said. `evaluation` is the digest of the samples, `outcomes`
    base64 of packed right/wrong bits.
    `value` and `fp32_value` are in the metric's `unit`: in 0..1 for a ``share``. `drop` and `interval` are in
    percentage points for a share, else in that unit; positive is worse, whatever `higher_is_better`; where `has_drop`
    is false the value is a distance to the float model already. `truth` is ``given``, or ``float model`` where the
    samples have none.
    `red` says whether the test fails by it: by its bar, unless that failure is expected, by being significantly worse
    than its `reference` (``value, worse, line``), unless that is, too, or because the float model itself is no use.
    `seconds` are what making took when it was made, which may have been in an earlier run.
    """

    case: Case
    metric: str
    verdict: str
    reason: str = ""
    red: bool = False
    n: int = 0
    value: float | None = None
    fp32_value: float | None = None
    drop: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    correct: int | None = None
    fp32_correct: int | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    per_class: Mapping[str, float] = field(default_factory=dict)
    fp32_per_class: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    size_bytes: int | None = None
    fp32_size_bytes: int | None = None
    integer_share: float | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float | None] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    bar: Mapping[str, Any] | None = None
    evaluation: str | None = None
    outcomes: str | None = None
    reference: Mapping[str, Any] | None = None
    unit: str = SHARE
    higher_is_better: bool = True
    truth: str = GIVEN
    cosine: float | None = None
    has_drop: bool = True

    @property
    def judged(self) -> bool:
        """Whether the case was measured."""
        return self.verdict in JUDGED

    @property
    def void(self) -> bool:
        """Whether there was nothing to compare, so that what was measured says nothing."""
        return self.reason.startswith(tuple(f"{self.case.id}: {why}" for why in (NO_REFERENCE, NOT_QUANTIZED)))

    @property
    def not_run(self) -> str:
        """Why the case was not measured, e.g. ``not installed: pip install 'ptq[torch]'``; empty when it was."""
        words = self.verdict.replace("_", " ")
        if self.judged:
            return ""
        return self.reason if self.reason.startswith(words) else f"{words}: {self.reason}"

    @property
    def failure(self) -> str:
        """Why it is red, the bar first; empty when nothing is amiss."""
        worse = str((self.reference or {}).get("line")) if (self.reference or {}).get("worse") else ""
        return "\n".join(line for line in ("" if self.verdict == PASS else self.reason, worse) if line)

    def as_json(self) -> dict[str, Any]:
        """The result as the JSON schema has it."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "case"}
        return {"id": self.case.id, **self.case.fields(), **fields}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Result:
        """The inverse of `as_json`."""
        fields = {
            name: value
            for name, value in content.items()
            if name in {*cls.__dataclass_fields__, *Case.__dataclass_fields__}
        }
        case = Case(**{name: fields.pop(name) for name in Case.__dataclass_fields__})
        if fields["interval"] is not None:
            fields["interval"] = tuple(fields["interval"])
        return cls(case, **fields)
