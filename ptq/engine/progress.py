"""Progress: a line for anything that takes more than two seconds, and nothing for what does not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Notify = Callable[[str], None]
"""Shows one line to whoever waits; may be called from another thread."""

PATIENCE_SECONDS = 2.0


def silent(line: str) -> None:
    """A `Notify` for callers nobody watches."""


@contextmanager
def announced(line: str, notify: Notify) -> Iterator[None]:
    """Say `line` once when the block is still running after `PATIENCE_SECONDS`."""
    timer = threading.Timer(PATIENCE_SECONDS, notify, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
