"""A bounded pool of large buffers between reading and writing."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sandlock_async.kernel.memory import Arena
from sandlock_async.workers import THREADS, Workers

BUFFER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of our memory.

    :ivar address: where it lies
    """

    view: memoryview
    address: int


class Buffers:
    """As many buffers as there are workers; made when the first is wanted."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._arena: Arena | None = None
        self._free: asyncio.Queue[Buffer] = asyncio.Queue()
        self._making = asyncio.Lock()

    @asynccontextmanager
    async def lent(self) -> AsyncGenerator[Buffer]:
        """Lend a buffer, as soon as one is free."""
        async with self._making:
            if self._arena is None:
                await self._make()
        buffer = await self._free.get()
        try:
            yield buffer
        finally:
            self._free.put_nowait(buffer)

    def close(self) -> None:
        """Give the memory back; nobody may use a buffer any more."""
        while not self._free.empty():
            self._free.get_nowait().view.release()
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    async def _make(self) -> None:
        size = THREADS * BUFFER_BYTES
        arena = await self._workers.acquire(Arena.close, Arena, size, size)
        self._arena = arena
        for start in range(0, arena.size, BUFFER_BYTES):
            view = arena.view[start : start + BUFFER_BYTES]
            self._free.put_nowait(Buffer(view, arena.address + start))
