"""The time a capture has, and whether it is still wanted."""

import threading
import time


class Aborted(Exception):
    """The capture was cancelled while a thread worked on it; never leaves us."""


_LONGEST_S = 1e6
"""Locks wait no longer than some years (threading.TIMEOUT_MAX)."""


class Deadline:
    """A point of the monotonic clock, and a flag that says: give up.

    Asked by the threads between two steps; set by the event loop.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds: float = min(seconds, _LONGEST_S)
        self._at = time.monotonic() + self.seconds
        self._aborted = threading.Event()

    def abort(self) -> None:
        """Let every thread that works for this capture stop at its next step."""
        self._aborted.set()

    @property
    def left(self) -> float:
        """Seconds that are left; 0 when the time is over."""
        return max(self._at - time.monotonic(), 0.0)

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._at

    def check_aborted(self) -> None:
        """Return, unless the capture is no longer wanted.

        :raises Aborted: after :meth:`abort`
        """
        if self._aborted.is_set():
            raise Aborted
