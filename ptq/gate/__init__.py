"""Gate: bars, references, verdicts, and what a run proves."""
