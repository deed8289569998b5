"""Waiting for work that must not be abandoned half-way.

A shield of anyio's does not stop a native ``Task.cancel()``, and a thread cannot
be cancelled at all. So whoever waits for a thread that holds a target, or for a
half-written directory, waits to the end, and only then lets the cancellation on.
"""

import asyncio
import concurrent.futures
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.abc

T = TypeVar("T")


class Overdue(Exception):
    """The work was not done in time, and is left to itself."""


async def completed(
    future: "concurrent.futures.Future[T]",
    *,
    on_cancel: Callable[[], object] = lambda: None,
    patience: float | None = None,
) -> T:
    """Return the future's result once it is done, however often we are cancelled.

    :param on_cancel: called at the first cancellation, to hurry the work along
    :param patience: seconds after which to leave it all the same
    :raises asyncio.CancelledError: when the work is done, if cancelled meanwhile;
        an exception of the work itself is then its cause
    :raises Overdue: after *patience*
    """
    return await _outlast(asyncio.wrap_future(future), on_cancel, patience)


async def shielded(
    work: Awaitable[T], *, on_cancel: Callable[[], object] = lambda: None
) -> T:
    """Run *work* to its end in a task of its own, however often we are cancelled.

    :param on_cancel: called at the first cancellation, to hurry the work along
    """
    return await _outlast(asyncio.ensure_future(work), on_cancel, None)


def _retrieve(future: "asyncio.Future[T]") -> None:
    """Take a late result or exception that nobody waits for any more."""
    if not future.cancelled():
        future.exception()


async def _outlast(
    future: "asyncio.Future[T]",
    on_cancel: Callable[[], object],
    patience: float | None,
) -> T:
    cancelled: BaseException | None = None
    began = time.monotonic()
    try:
        # asyncio.wait leaves the future alone when the waiter is cancelled.
        await asyncio.wait([future], timeout=patience)
    except GeneratorExit:
        on_cancel()  # the event loop is gone: nothing can be awaited any more
        raise
    except BaseException as error:  # noqa: BLE001 - raised again below
        cancelled = error
        on_cancel()
        # The shield keeps anyio from cancelling anew at every turn of the loop.
        with anyio.CancelScope(shield=True):
            while not future.done():
                rest = None if patience is None else began + patience - time.monotonic()
                if rest is not None and rest <= 0:
                    break
                try:
                    await asyncio.wait([future], timeout=rest)
                except asyncio.CancelledError:
                    continue

    if cancelled is not None:
        failure = None
        if future.done() and not future.cancelled():
            failure = future.exception()
        raise cancelled from failure
    if not future.done():
        future.add_done_callback(_retrieve)
        raise Overdue
    return future.result()


@asynccontextmanager
async def task_group() -> AsyncGenerator[anyio.abc.TaskGroup]:
    """Open a task group that raises its first error as itself, not in a group."""
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]  # pyright: ignore[reportUnknownVariableType]
        raise first from None
