"""Progress: how far a run is, what is being made, and how long is left.

On a terminal it is one line below pytest's own that changes; in a log plain lines, seldom. With ``-q`` there is none.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping

import pytest

from ptq.report.plain import plain

SELDOM_SECONDS = 10.0
"""Between two plain lines that say what is being made."""
RARELY_SECONDS = 60.0
"""Between two plain lines that say only how far the run is."""
_DRAW = "\x1bD\x1b[A\x1b7\x1b[B\r{}\x1b[K\x1b8"
"""Make room below the line pytest writes to, remember the place, write there, return."""
_CLEAR = "\x1b7\x1b[B\r\x1b[K\x1b8"


class Progress:
    """How far a run is; `write` shows text to who waits, `updating` whether it can take back what it wrote.

    `known` are seconds of earlier runs, by test id. May be called from several threads.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        updating: bool,
        known: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds: dict[str, float] = {}
        """Of each test that ended."""
        self._write, self._updating, self._known, self._clock = write, updating, known, clock
        self._lock = threading.Lock()
        self._expected: dict[str, float] = {}
        self._done: set[str] = set()
        self._shown = False
        self._doing = ""
        self._start = clock()
        self._last = -RARELY_SECONDS

    def expect(self, names: Collection[str]) -> None:
        """The tests of this run; the time of one that never ran is taken to be the mean of the others."""
        known = [self._known[name] for name in names if name in self._known]
        mean = sum(known) / len(known) if known else 1.0
        self._expected = {name: max(self._known.get(name, mean), 0.01) for name in names}
        self._start = self._clock()

    def took(self, name: str, seconds: float) -> None:
        """A phase of a test ended."""
        if name in self._expected:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def done(self, name: str) -> None:
        """A test ended."""
        if name not in self._expected:
            return
        with self._lock:
            self._done.add(name)
            self._doing = ""
            if self._updating:
                self._draw()
            elif self._clock() - max(self._last, self._start) >= RARELY_SECONDS:
                self._line("")

    def doing(self, line: str) -> None:
        """Something takes long: what it is."""
        with self._lock:
            self._doing = line
            if self._updating:
                self._draw()
            elif self._clock() - self._last >= SELDOM_SECONDS:
                self._line(line)

    def clear(self) -> None:
        """Take the line back: pytest is about to write."""
        with self._lock:
            if self._shown:
                self._write(_CLEAR)
                self._shown = False

    def text(self) -> str:
        """How far the run is and what is being made, as one line."""
        parts = []
        if self._expected:
            parts.append(f"{len(self._done)} of {len(self._expected)}")
            if (left := self._left()) is not None:
                parts.append(f"about {_spoken(left)} left")
        return plain(": ".join(part for part in ("ptq", ", ".join(parts), self._doing) if part))

    def _left(self) -> float | None:
        """Seconds: what the rest took before, at the pace of this run; None when too little is known."""
        before = sum(self._expected[name] for name in self._done)
        passed = self._clock() - self._start
        if not self._done or passed < 2 or len(self._done) == len(self._expected):
            return None
        return passed / before * (sum(self._expected.values()) - before)

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns
        self._write(_DRAW.format(self.text()[: width - 1]))
        self._shown = True

    def _line(self, doing: str) -> None:
        self._last = self._clock()
        self._write(f"\n{self.text()}{' ...' if doing else ''}\n")


def _spoken(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def progress_of(config: pytest.Config, known: Mapping[str, float]) -> Progress:
    """The progress of a run, or of one of its workers: on the terminal that standard error is, if it is one."""
    # a copy of the descriptor, because a test's stderr is captured and its reader waits now
    terminal = os.dup(2)
    config.add_cleanup(lambda: os.close(terminal))
    worker = getattr(config, "workerinput", None)
    quiet = config.option.verbose < 0 or (worker is not None and worker.get("ptq_updating", False))

    def write(text: str) -> None:
        os.write(terminal, text.encode(errors="replace"))

    return Progress((lambda text: None) if quiet else write, worker is None and can_update(config), known)


def can_update(config: pytest.Config) -> bool:
    """Whether a line can be taken back: on a terminal that nothing else writes to."""
    dumb = os.environ.get("TERM", "dumb") == "dumb" or bool(os.environ.get("CI"))
    shown = config.getoption("capture") != "no" and config.option.verbose >= 0
    return shown and not dumb and os.isatty(1) and os.isatty(2)
