"""What does not fit the memory budget is handed on under the freeze, piece by piece."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

from sandlock_async.clock import Deadline
from sandlock_async.completion import completed, shielded, task_group
from sandlock_async.errors import SandlockAsyncError
from sandlock_async.failure import translate
from sandlock_async.plan import Plan
from sandlock_async.snapshot.copying import copy_overdue
from sandlock_async.snapshot.direct import Pending, Run
from sandlock_async.snapshot.subject import Subject
from sandlock_async.snapshot.window import release
from sandlock_async.store.buffers import Buffers
from sandlock_async.tracer import TracerThread
from sandlock_async.workers import THREADS, Workers

Spill = Callable[[int, Plan, int, list[Run]], Awaitable[None]]
"""Takes memory that must be written while the target is frozen: the pid, the plan, the
number of the segment in it, and the bytes."""


def thaw(cast: list[Subject]) -> None:
    """Let all run again, whatever has been read."""
    for subject in cast:
        subject.group.thaw()


async def spill_pending(
    tracer: TracerThread,
    cast: list[Subject],
    deadline: Deadline,
    workers: Workers,
    buffers: Buffers,
    spill: Spill,
) -> None:
    """Hand on what is pending, a few pieces at a time; then all run again.

    The tracer's thread ends the freeze by itself when the time is over: the event
    loop may be busy or gone by then, or a writer wait for a disk.
    """
    over = threading.Event()

    def hold() -> None:
        try:
            if not over.wait(deadline.left):
                raise copy_overdue(cast[0].target.pid, deadline)
            release(cast)
        finally:
            thaw(cast)

    async def hand_on(pieces: "list[tuple[Subject, Pending]]") -> None:
        while pieces:
            subject, piece = pieces.pop()
            source = subject.direct
            pid = subject.target.pid
            try:
                async with buffers.lent() as buffer:
                    runs = await workers.run(
                        source.read, piece, buffer.view, buffer.address
                    )
                    await spill(pid, source.plan, piece.index, runs)
            except SandlockAsyncError:
                raise
            except OSError as error:
                raise await workers.run(translate, error, pid, "snapshot") from error

    async def hand_on_all() -> None:
        pieces = [
            (subject, piece)
            for subject in reversed(cast)
            for piece in reversed(subject.direct.pending)
        ]
        async with task_group() as tasks:
            for _ in range(THREADS):
                tasks.start_soon(hand_on, pieces)

    # First of all: it ends the freeze even if the event loop never gets to the rest.
    held = tracer.submit(hold)
    try:
        await workers.to_loop()
        loop = asyncio.get_running_loop()
        work = loop.create_task(hand_on_all())

        def stop_work(_: object = None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(work.cancel)

        def give_up() -> None:
            deadline.abort()
            over.set()
            stop_work()

        held.add_done_callback(stop_work)  # once the target runs it is of no use
        await shielded(work, on_cancel=give_up)
    finally:
        over.set()
        await completed(held)  # its error says more than that the work was cancelled
