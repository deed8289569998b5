"""The threads on which one operation reads, writes and waits for the disk.

Nothing of ours runs on the application's default executor, which may be full.
"""

import asyncio
import concurrent.futures
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from sandlock_async.completion import completed, shielded
from sandlock_async.courtesy import courteous_loop
from sandlock_async.threads import no_thread_error

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4
"""Threads an operation has at most; they start when there is work for them."""

_END_POLL_S = 0.0002


class Workers(concurrent.futures.ThreadPoolExecutor):
    """A small pool that is empty and gone when its ``async with`` is left."""

    def __init__(self) -> None:
        super().__init__(THREADS, thread_name_prefix="sandlock-async-io")
        self._held = ExitStack()
        self._outstanding: set[concurrent.futures.Future[Any]] = set()

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """Start a call on one of the threads."""
        try:
            future = super().submit(fn, *args, **kwargs)
        except RuntimeError as error:
            if self._shutdown:
                raise
            raise no_thread_error() from error
        self._outstanding.add(future)
        future.add_done_callback(self._outstanding.discard)
        return future

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *fn* returns; a cancellation waits for it to end first."""
        return await completed(self.submit(fn, *args, **kwargs))

    async def acquire(
        self,
        release: Callable[[T], object],
        fn: Callable[P, T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return what *fn* returns; if we are cancelled meanwhile, *release* that.

        For what must not be lost: a descriptor, a directory, memory.
        """
        future = self.submit(fn, *args, **kwargs)
        try:
            return await completed(future)
        except BaseException:
            if not future.cancelled() and future.exception() is None:
                await self.run(release, future.result())
            raise

    async def drained(self) -> None:
        """Wait until nothing runs here, so that no thread touches what goes next."""
        await shielded(self._drain())

    async def _drain(self) -> None:
        # A cancelled aiofiles call leaves its thread at work.
        for future in tuple(self._outstanding):
            future.cancel()
            try:
                await completed(future)
            except BaseException:  # noqa: BLE001, S112 - its caller has been told
                continue

    async def _end(self) -> None:
        # Idle threads end at once, but joining them would block the event loop.
        self.shutdown(wait=False)
        while any(thread.is_alive() for thread in self._threads):  # noqa: ASYNC110
            await asyncio.sleep(_END_POLL_S)

    async def __aenter__(self) -> Self:
        self._held.enter_context(courteous_loop())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._held:
            try:
                await self.drained()
            finally:
                await shielded(self._end())
