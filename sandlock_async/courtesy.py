"""Turns of the GIL for our threads while the event loop is busy.

A thread that wants the GIL asks for it after 5 ms in which nobody let it go
(``sys.getswitchinterval()``). A busy loop lets it go in every ``select()``, and has
it back before that thread has woken up: callbacks of four milliseconds starve every
other thread, for seconds, and with it a target that waits to be thawed. So while an
operation runs, a loop that turns out to be busy rests for a moment.
"""

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sandlock_async.kernel.libc import rest

_BEAT_S = 0.002
_LATE_S = 0.001
"""A timer that is so late was kept waiting by a busy loop."""

_REST_US = 50
"""Longer than a thread takes to wake up."""


class _Courtesy:
    """A timer of one loop, shared by all operations on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.users = 0
        self._loop = loop
        self._beat()

    def stop(self) -> None:
        self._timer.cancel()

    def _beat(self) -> None:
        self._due = self._loop.time() + _BEAT_S
        self._timer = self._loop.call_later(_BEAT_S, self._take_turn)

    def _take_turn(self) -> None:
        if self._loop.time() - self._due > _LATE_S:
            rest(_REST_US)
        self._beat()


_courtesies: dict[Any, _Courtesy] = {}


# A child of fork(2) has none of the operations that are counted here.
os.register_at_fork(after_in_child=_courtesies.clear)


@contextmanager
def courteous_loop() -> Generator[None]:
    """Let the running event loop make way for other threads, as long as inside."""
    loop = asyncio.get_running_loop()
    courtesy = _courtesies.get(loop)
    if courtesy is None:
        courtesy = _courtesies[loop] = _Courtesy(loop)
    courtesy.users += 1
    try:
        yield
    finally:
        courtesy.users -= 1
        if not courtesy.users:
            courtesy.stop()
            del _courtesies[loop]
