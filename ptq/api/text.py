"""Text: plain columns, in which a name from outside is nothing but text."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST, WIDEST = 1000, 200
"""Characters of a line, and of a cell, that are shown: a name in a file may be a megabyte."""


def printable(text: object, most: int = LONGEST) -> str:
    """The text with control characters, ESC among them, written out: ``\\x1b``; cut to `most` characters."""
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text)[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def columns(rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Rows as lines, their cells below one another, two spaces between; those numbered in `right` end there."""
    cells = [[printable(cell, WIDEST) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)
