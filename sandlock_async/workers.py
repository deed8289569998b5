"""The threads on which one operation reads, writes and waits for the disk.

Nothing of ours runs on the application's default executor, which may be full.
"""

import asyncio
import concurrent.futures
import os
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from contextvars import copy_context
from inspect import CORO_CREATED, getcoroutinestate
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from sandlock_async.alone import Alone, Ended, Rest
from sandlock_async.completion import completed, shielded
from sandlock_async.courtesy import courteous_loop
from sandlock_async.kernel.libc import rest
from sandlock_async.threads import no_thread_error
from sandlock_async.turns import turn

P = ParamSpec("P")
T = TypeVar("T")

THREADS = max(2, min(4, len(os.sched_getaffinity(0))))
"""Threads an operation has at most; they start when there is work for them. More of
them than CPUs copy no faster, and the event loop waits for a CPU as well."""

_END_RESTS = 4
_END_REST_US = 50
"""Idle threads need about that; the event loop cannot sleep for less than 1 ms."""

_END_POLL_S = 0.001


class _Pool(concurrent.futures.ThreadPoolExecutor):
    """Threads, and what became of them."""

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more calls."""
        return self._shutdown

    @property
    def is_over(self) -> bool:
        """Whether no thread is left."""
        return not any(thread.is_alive() for thread in self._threads)

    def forget(self) -> None:
        """Drop what no thread has begun: nobody was given its future."""
        while not self._work_queue.empty():
            self._work_queue.get_nowait()

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if self.is_over:
                raise
            # Those that there are will do it. Raised, it would be done all the same,
            # and nobody would close what it opens.


class Workers(concurrent.futures.Executor):
    """A small pool that is empty and gone when its ``async with`` is left.

    :param threads: how many it has at most
    :param pool: threads of somebody else's, to be used instead
    :ivar loop: the event loop on which it has been entered
    """

    def __init__(self, threads: int = THREADS, *, pool: _Pool | None = None) -> None:
        self._is_lent = pool is not None
        self.loop: asyncio.AbstractEventLoop
        self._pool = pool or _Pool(threads, thread_name_prefix="sandlock-async-io")
        self._held = ExitStack()
        self._outstanding: set[concurrent.futures.Future[Any]] = set()
        self._alone: Alone | None = None

    def lent(self) -> "Workers":
        """Return the same threads for one operation of several that share them."""
        return Workers(pool=self._pool)

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """Start a call on one of the threads."""
        future = self._start(fn, *args, **kwargs)
        self._outstanding.add(future)
        future.add_done_callback(self._outstanding.discard)
        return future

    def _start(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        try:
            return self._pool.submit(fn, *args, **kwargs)
        except RuntimeError as error:
            if self._pool.is_closed:
                raise
            self._pool.forget()
            raise no_thread_error() from error

    async def alone(self, story: Coroutine[Any, Any, T]) -> T:
        """Return what *story* returns, which awaits nothing but what is here.

        It is told on one of the threads, where every call is made at once, until it
        comes :meth:`to_loop`; on the event loop then. If we are cancelled just when it
        returns, what it returns is lost.
        """
        try:
            async with turn():
                ended = await self._begun(story)
        except BaseException:
            if getcoroutinestate(story) == CORO_CREATED:
                story.close()  # or it would be complained about
            raise
        return await Rest(story) if ended is None else ended.value

    async def _begun(self, story: Coroutine[Any, Any, T]) -> Ended[T] | None:
        self._alone = alone = Alone()
        future = self._start(copy_context().run, alone.drive, story)
        try:
            return await completed(future, on_cancel=alone.cancel)
        except BaseException:
            failed = not future.done() or future.exception() is not None
            if failed or future.result() is not None:
                raise
            return None  # it is told that it is cancelled when it goes on
        finally:
            if future.done():  # else the loop is gone, and the thread goes on alone
                self._alone = None

    async def to_loop(self) -> None:
        """Go on on the event loop, where several things can be done at a time."""
        if self._alone is not None:
            await self._alone.to_loop()

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *fn* returns; a cancellation waits for it to end first."""
        if self._alone is not None:
            self._alone.check_cancelled()
            return fn(*args, **kwargs)
        return await completed(self.submit(fn, *args, **kwargs))

    async def completed(
        self,
        future: "concurrent.futures.Future[T]",
        *,
        on_cancel: Callable[[], object],
        patience: float | None = None,
    ) -> T:
        """Return the result of a call on another thread, as :func:`completed` does."""
        if self._alone is not None:
            return self._alone.completed(future, on_cancel, patience)
        return await completed(future, on_cancel=on_cancel, patience=patience)

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
        if self._alone is not None:
            return await self.run(fn, *args, **kwargs)
        future = self.submit(fn, *args, **kwargs)
        try:
            return await completed(future)
        except BaseException:
            if not future.cancelled() and future.exception() is None:
                await self.run(release, future.result())
            raise

    async def drained(self) -> None:
        """Wait until nothing runs here, so that no thread touches what goes next."""
        if not self._outstanding:
            return
        if self._alone is not None:
            concurrent.futures.wait(tuple(self._outstanding))
        else:
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
        self._pool.shutdown(wait=False)
        for _ in range(_END_RESTS):
            if self._pool.is_over:
                return
            rest(_END_REST_US)
        while not self._pool.is_over:  # noqa: ASYNC110
            await asyncio.sleep(_END_POLL_S)

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
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
                if not self._is_lent:
                    await shielded(self._end())
