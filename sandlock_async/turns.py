"""Small captures take turns: a few at a time, however many are wanted at once.

A hundred threads that all want the GIL get less done than two, one of which is in the
kernel, and their targets stand still while they wait for it. A turn that takes long,
since a program does not stop or a disk hangs, does not keep the others waiting.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

AT_ONCE = 2
"""Turns at a time, unless some take long."""

_LONG_S = 0.05
"""Nobody has given a turn back for so long: one more is handed out."""


class _Turns:
    """The turns of one event loop.

    :ivar users: who has one or waits for one
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.users: int = 0
        self._loop = loop
        self._free = AT_ONCE
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> None:
        """Wait for a turn."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(waiter)
        self._hand_out()
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        """Let somebody else have the turn."""
        self._free += 1
        self._stop_timer()
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._free -= 1
        if self._waiting and self._timer is None:
            self._timer = self._loop.call_later(_LONG_S, self._hand_out_one_more)

    def _hand_out_one_more(self) -> None:
        self._timer = None
        self._free += 1
        self._hand_out()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_turns: dict[asyncio.AbstractEventLoop, _Turns] = {}


@asynccontextmanager
async def turn() -> AsyncGenerator[None]:
    """Have a turn inside."""
    loop = asyncio.get_running_loop()
    turns = _turns.setdefault(loop, _Turns(loop))
    turns.users += 1
    try:
        await turns.take()
        try:
            yield
        finally:
            turns.give_back()
    finally:
        turns.users -= 1
        if not turns.users:
            del _turns[loop]
