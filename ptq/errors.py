"""The errors a user can cause. Every message is one line: what, the fact, the expectation, the remedy."""

from __future__ import annotations


class PtqError(Exception):
    """An error a user can cause and mend; `str(error)` is one line."""


class NoData(PtqError):
    """A workload's data or model is absent; the message says what to do."""


class NotInstalled(PtqError):
    """A framework is absent; the message names the extra that brings it."""


class Unsupported(PtqError):
    """A combination that cannot be; the message is the reason."""


class BadData(PtqError):
    """A file or an array is not what it should be; the message names it and the fact."""


class BadModel(PtqError):
    """A model file cannot be used; the message names it and the fact."""
