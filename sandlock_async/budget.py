"""How much memory all captures of this process may hold for copies at once."""

import asyncio
import concurrent.futures
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

DEFAULT_LIMIT = 256 << 20
"""Bytes, unless a capture says otherwise."""


@dataclass(frozen=True, slots=True)
class _Waiter:
    wanted: int
    limit: int
    granted: "concurrent.futures.Future[None]"


class Budget:
    """Bytes reserved, first come first served, across threads and event loops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used = 0
        self._waiting: deque[_Waiter] = deque()

    @property
    def used_bytes(self) -> int:
        """Bytes that running captures have reserved."""
        return self._used

    @asynccontextmanager
    async def reserved(
        self, wanted: int, limit: int, to_loop: Callable[[], Awaitable[None]]
    ) -> AsyncGenerator[int]:
        """Hold *wanted* bytes, at most *limit*; wait until all fit in *limit*.

        Yields the bytes held. Waits before anything is frozen: a target never
        stands still because another capture has the memory.

        :param to_loop: awaited before it has to wait, which needs the event loop
        """
        wanted = min(wanted, limit)
        waiter = _Waiter(wanted, limit, concurrent.futures.Future())
        with self._lock:
            self._waiting.append(waiter)
            self._grant()
        try:
            if not waiter.granted.done():
                await to_loop()
                await asyncio.wrap_future(waiter.granted)
            yield wanted
        finally:
            with self._lock:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                else:
                    self._used -= wanted
                self._grant()

    def forget(self) -> None:
        """Begin anew."""
        Budget.__init__(self)

    def _grant(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            if self._used and self._used + first.wanted > first.limit:
                return
            self._waiting.popleft()
            self._used += first.wanted
            # A waiter cancelled in this very moment gives it back in its finally.
            if first.granted.set_running_or_notify_cancel():
                first.granted.set_result(None)


BUDGET = Budget()
"""The one of this process."""

# A child of fork(2) has none of the captures that hold its copy of the budget.
os.register_at_fork(after_in_child=BUDGET.forget)
