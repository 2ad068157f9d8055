"""Plain text: what a terminal, a page and markdown can all show."""

from __future__ import annotations


def plain(text: str) -> str:
    """Text as one line without control characters and lone surrogates; nothing is cut."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
