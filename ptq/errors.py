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


def one_line(error: BaseException | str, most: int = 200) -> str:
    """What a library said, as text of one line: control characters and line breaks become spaces, the end is cut.

    An error without a message is called by its type.
    """
    text = str(error).strip() or type(error).__name__
    words = "".join(char if char.isprintable() else " " for char in text).split()
    said = " ".join(words)
    return said if len(said) <= most else said[: most - 1].rsplit(" ", 1)[0] + "…"
