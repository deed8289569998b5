"""A coroutine on a thread, without an event loop, for as long as it can do without.

The story of a capture is a coroutine. Told on the event loop it takes twenty hops to a
worker and back, which cost more than all that a small process is captured with. So it
is begun on a worker, where each step is a plain call, and moves to the loop when it has
to wait for something else than a call, or when the steps turn out to be large.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sandlock_async.completion import Overdue

T = TypeVar("T")


def _do_nothing() -> None:
    pass


class _ToLoop:
    """What a coroutine yields to go on on the event loop."""

    def __await__(self) -> Generator["_ToLoop"]:
        yield self


_TO_LOOP = _ToLoop()


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """What a coroutine has returned."""

    value: T


class Alone:
    """A coroutine's time on a thread, and its cancellation meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._is_told = False
        self._hurry: Callable[[], object] = _do_nothing

    def drive(self, story: Coroutine[Any, Any, T]) -> Ended[T] | None:
        """Run *story* on this thread until it ends; None when it wants the loop.

        :raises BaseException: what it raises
        """
        try:
            wanted = story.send(None)
        except StopIteration as ended:
            return Ended(ended.value)
        assert wanted is _TO_LOOP, "it awaits what needs an event loop"
        return None

    def cancel(self) -> None:
        """Have :exc:`asyncio.CancelledError` raised at the next step; any thread."""
        with self._lock:
            self._is_cancelled = True
            hurry = self._hurry
        hurry()

    def check_cancelled(self) -> None:
        """Return, unless the coroutine has been cancelled and was not told so yet.

        :raises asyncio.CancelledError: once
        """
        if self._is_cancelled and not self._is_told:
            self._is_told = True
            raise asyncio.CancelledError

    def completed(
        self,
        future: "concurrent.futures.Future[T]",
        on_cancel: Callable[[], object],
        patience: float | None,
    ) -> T:
        """Block until *future* is done; as :func:`completion.completed` for the rest.

        :raises Overdue: after *patience* seconds
        """
        with self._lock:
            self._hurry = on_cancel
            is_late = self._is_cancelled and not self._is_told
        if is_late:
            on_cancel()
        concurrent.futures.wait([future], timeout=patience)
        with self._lock:
            self._hurry = _do_nothing
        try:
            self.check_cancelled()
        except asyncio.CancelledError as cancelled:
            failure = future.exception() if future.done() else None
            raise cancelled from failure
        if not future.done():
            raise Overdue
        return future.result()

    async def to_loop(self) -> None:
        """Go on on the event loop.

        :raises asyncio.CancelledError: if the coroutine was cancelled before
        """
        await _TO_LOOP
        self.check_cancelled()


class Rest(Generic[T]):
    """What is left of a coroutine that wants the loop, to be awaited there."""

    def __init__(self, story: Coroutine[Any, Any, T]) -> None:
        self._story = story

    def __await__(self) -> Generator[Any, Any, T]:
        return self._story.__await__()
