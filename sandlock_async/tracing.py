"""The event loop's side of a freeze: it starts it, waits for it, and ends it.

Everything that touches the target runs on the tracer's thread; what does not fit
the memory budget is handed on from there, under the freeze, piece by piece.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from sandlock_async.clock import Deadline
from sandlock_async.completion import Overdue, completed, shielded, task_group
from sandlock_async.errors import FreezeTimeoutError
from sandlock_async.failure import exhaustion_explained
from sandlock_async.freeze import ThreadGroup
from sandlock_async.kernel.memory import Arena
from sandlock_async.model import FdInfo, MemoryMap, MemorySegment, ProcessState
from sandlock_async.plan import Plan
from sandlock_async.snapshot.copying import Copier, copy_overdue
from sandlock_async.snapshot.details import parse_details
from sandlock_async.snapshot.direct import DirectSource, Pending, Run
from sandlock_async.snapshot.facts import parse_fds
from sandlock_async.snapshot.fd_details import describe_fds
from sandlock_async.snapshot.fd_late import LateFds, read_late
from sandlock_async.snapshot.mapped_files import Identities
from sandlock_async.snapshot.pieces import Piece
from sandlock_async.snapshot.survey import Survey
from sandlock_async.snapshot.thread_facts import parse_threads, read_lasting
from sandlock_async.snapshot.vm_areas import describe_areas
from sandlock_async.snapshot.window import View, look
from sandlock_async.store.buffers import Buffers
from sandlock_async.target import Target
from sandlock_async.tracer import TracerThread
from sandlock_async.waiters import (
    LoopFacts,
    check_waiters,
    child_stops_silenced,
    polls_held,
)
from sandlock_async.workers import THREADS, Workers

_PATIENCE_S = 2.0
"""How long after its timeout a thread that is stuck in the kernel is waited for."""

Spill = Callable[[Plan, int, list[Run]], Awaitable[None]]
"""Takes memory that must be written while the target is frozen: the plan, the number
of the segment in it, and the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A process as it was, in our memory; the process itself runs again.

    :ivar fds: what was looked up of the descriptors, right after the thaw
    :ivar attach_ms: from the first request to the first interrupt
    :ivar freeze_ms: from the first interrupt to the last detach
    :ivar copied_bytes: bytes read while it was frozen
    :ivar spilled_bytes: those of them that did not fit the memory budget
    """

    target: Target
    view: View
    source: DirectSource
    files: Identities
    fds: LateFds
    threads: int
    attach_ms: float
    freeze_ms: float
    copied_bytes: int
    spilled_bytes: int

    def process_state(
        self,
        holds: Callable[[MemoryMap], bool],
        streamed: dict[int, list[Piece]] | None = None,
    ) -> ProcessState:
        """Return what was seen, as the image has it.

        :param holds: whether the base layout holds the bytes of a captured mapping
        :param streamed: where the spilled bytes are now, by segment number
        :raises UnsupportedArchError: if the process turns out to run 32-bit code
        """
        facts, pid = self.view.facts, self.target.pid
        machine = self.target.machine
        lasting = read_lasting(pid, facts.threads, machine)
        threads = parse_threads(facts.threads, lasting, pid, machine)
        held, extended = partition_segments(
            self.source.segments(streamed),
            (segment.mapping.map for segment in self.source.plan.segments),
            holds,
        )
        fds = describe_fds(facts.fds, self.view.contents, self.fds)
        return ProcessState(
            pid=pid,
            cwd=facts.cwd.decode(errors="replace"),
            exe=facts.exe.decode(errors="replace"),
            regs=threads[0].regs,
            memory_maps=tuple(mapping.map for mapping in self.view.mappings),
            memory_data=held,
            extended_segments=extended,
            threads=threads,
            arch=self.target.machine.name,
            vm_areas=describe_areas(self.view, self.files, self.source.plan),
            details=parse_details(
                self.view.details, facts.status, facts.queued, asked=None
            ),
            fd_details=fds.details,
            pipe_contents=fds.pipes,
            socket_contents=fds.sockets,
            skipped_fds=fds.skipped,
            skipped=self.source.skipped(),
        )

    def fd_table(self) -> tuple[FdInfo, ...]:
        """Return the open descriptors."""
        return parse_fds(self.view.facts)


def partition_segments(
    segments: Iterable[MemorySegment],
    mappings: Iterable[MemoryMap],
    holds: Callable[[MemoryMap], bool],
) -> tuple[tuple[MemorySegment, ...], tuple[MemorySegment, ...]]:
    """Return the segments of mappings that a base layout holds, and the others."""
    held: list[MemorySegment] = []
    extended: list[MemorySegment] = []
    for segment, mapping in zip(segments, mappings, strict=True):
        (held if holds(mapping) else extended).append(segment)
    return tuple(held), tuple(extended)


async def take_snapshot(
    target: Target,
    seen: Survey,
    *,
    room: int,
    timeout: float,
    workers: Workers,
    buffers: Buffers,
    spill: Spill,
    on_frozen: Callable[[int], None] = lambda _: None,
) -> Snapshot:
    """Freeze the target, copy it, and let it run again.

    However this ends, when it ends the target runs.

    :param room: bytes of memory for the copy
    :param timeout: seconds for attach and freeze
    :param on_frozen: told the number of threads, if anything is spilled
    :return: the snapshot; close its source when the bytes are no longer wanted
    """
    with exhaustion_explained(target.pid):
        arena = await workers.acquire(Arena.close, Arena, room)
    source: DirectSource | None = None
    stuck = False
    try:
        deadline = Deadline(timeout)
        source = DirectSource(Copier(target.pid, deadline), arena, workers)
        group = ThreadGroup(target.pid, deadline)
        began = time.monotonic()
        held = ExitStack()
        with child_stops_silenced(), held:
            with exhaustion_explained(target.pid):
                tracer = TracerThread(target.pid)
            try:
                view, threads = await _look(
                    tracer, group, deadline, target, seen, source, held
                )
                if source.pending:
                    on_frozen(threads)
                    await _spill_pending(
                        tracer, group, deadline, source, workers, buffers, spill
                    )
            except Overdue:
                stuck = True
                deadline.abort()  # it lets go as soon as the kernel returns
                raise _stuck_error(target.pid, deadline) from None
            finally:
                if stuck:
                    tracer.shutdown(wait=False)
                else:
                    # The end of the thread would let the target go as well, but not
                    # hand over the signals that were caught in flight.
                    tracer.submit(group.thaw)
                    await workers.run(tracer.shutdown)
        fds = await workers.run(read_late, target, view.facts.fds)
        with exhaustion_explained(target.pid):
            await workers.run(
                source.read_mapped_files, target.pid, target.root_fd, seen.files
            )
        source.trim()
    except BaseException:
        # A thread that is stuck may still write to the arena.
        if not stuck:
            await workers.run(source.close if source is not None else arena.close)
        raise
    return Snapshot(
        target=target,
        view=view,
        source=source,
        files=seen.files,
        fds=fds,
        threads=threads,
        attach_ms=1e3 * (group.frozen_at - began),
        freeze_ms=1e3 * (group.thawed_at - group.frozen_at),
        copied_bytes=source.copied_bytes,
        spilled_bytes=sum(pending.size for pending in source.pending),
    )


async def _look(
    tracer: TracerThread,
    group: ThreadGroup,
    deadline: Deadline,
    target: Target,
    seen: Survey,
    source: DirectSource,
    held: ExitStack,
) -> tuple[View, int]:
    loop = LoopFacts.of(asyncio.get_running_loop())

    def job() -> tuple[View, int]:
        check_waiters(target, loop)
        held.enter_context(polls_held(target))
        view = look(target, group, seen, source)
        return view, len(view.facts.threads)

    return await completed(
        tracer.submit(job),
        on_cancel=deadline.abort,
        patience=deadline.seconds + _PATIENCE_S,
    )


async def _spill_pending(
    tracer: TracerThread,
    group: ThreadGroup,
    deadline: Deadline,
    source: DirectSource,
    workers: Workers,
    buffers: Buffers,
    spill: Spill,
) -> None:
    """Hand on what is pending, a few pieces at a time; then the target runs again.

    The tracer's thread ends the freeze by itself when the time is over: the event
    loop may be busy or gone by then, or a writer wait for a disk.
    """
    over = threading.Event()

    def hold() -> None:
        try:
            if not over.wait(deadline.left):
                raise copy_overdue(group.pid, deadline)
            group.release()
        finally:
            group.thaw()

    async def hand_on(pieces: "list[Pending]") -> None:
        while pieces:
            piece = pieces.pop()
            async with buffers.lent() as buffer:
                runs = await workers.run(
                    source.read, piece, buffer.view, buffer.address
                )
                await spill(source.plan, piece.index, runs)

    async def hand_on_all() -> None:
        pieces = source.pending[::-1]
        async with task_group() as tasks:
            for _ in range(THREADS):
                tasks.start_soon(hand_on, pieces)

    loop = asyncio.get_running_loop()
    work = loop.create_task(hand_on_all())

    def stop_work(_: object = None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(work.cancel)

    def give_up() -> None:
        deadline.abort()
        over.set()
        stop_work()

    held = tracer.submit(hold)
    held.add_done_callback(stop_work)  # once the target runs there is no use in it
    try:
        await shielded(work, on_cancel=give_up)
    finally:
        over.set()
        await completed(held)  # its error says more than that the work was cancelled


def _stuck_error(pid: int, deadline: Deadline) -> FreezeTimeoutError:
    return FreezeTimeoutError(
        pid,
        "attach",
        f"the kernel did not let us attach to process {pid} in {deadline.seconds:g} s: "
        "it is in the middle of an execve(2) that does not end",
        help="try again later",
    )
