"""Deadline: so many seconds, held in the middle of whatever is done when they end."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Deadline:
    """`seconds` from now on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds to its end, 0 after it."""
        return max(0.0, self._end - time.monotonic())

    @contextmanager
    def held(self, kept: float = 0.0) -> Iterator[None]:
        """Raises KeyboardInterrupt in what runs inside, `kept` seconds before the end.

        A call into a library that is under way (a batch, a product of matrices) is ended first. Of the main thread
        alone: in another one nothing is raised, and the deadline is seen when the block has ended.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        rung, given = threading.Event(), signal.getsignal(signal.SIGINT)

        def ring() -> None:
            rung.set()
            _thread.interrupt_main()

        def heard(number: int, frame: FrameType | None) -> None:
            if rung.is_set():
                rung.clear()  # once: a signal and the timer may both come
                raise KeyboardInterrupt

        timer = threading.Timer(max(0.0, self.left - kept), ring)
        timer.daemon = True
        if given is signal.SIG_IGN:  # as a shell starts what runs in the background: nothing would be raised
            signal.signal(signal.SIGINT, heard)
        timer.start()
        try:
            yield
        finally:
            try:
                timer.cancel()
                timer.join()
            finally:  # the timer may ring while it is cancelled
                if given is signal.SIG_IGN:
                    signal.signal(signal.SIGINT, given)
