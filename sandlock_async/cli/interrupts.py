"""Ctrl-C and SIGTERM as a cancellation, so that nothing is left half-done."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """The work was cancelled by a signal, and has cleaned up.

    :ivar signal: which
    """

    def __init__(self, signum: signal.Signals) -> None:
        super().__init__(f"interrupted by {signum.name}")
        self.signal = signum


def run_interruptible(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run *work* on an event loop; SIGINT and SIGTERM cancel it, each time anew.

    Returns only when the work has ended: a cancelled capture has let its target
    go and removed its files by then.

    :raises Interrupted: if it ended by such a cancellation
    """
    received: list[signal.Signals] = []

    async def main() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work())

        def interrupt(signum: signal.Signals) -> None:
            received.append(signum)
            task.cancel()

        for signum in (signal.SIGINT, signal.SIGTERM):
            # A shell starts a job in the background with SIGINT ignored.
            if signal.getsignal(signum) is not signal.SIG_IGN:
                loop.add_signal_handler(signum, interrupt, signum)
        return await task

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        if not received:
            raise
        raise Interrupted(received[0]) from None
