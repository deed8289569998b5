"""The event loop's side of a freeze: it starts it, waits for it, and ends it.

Everything that touches the target runs on the tracer's thread; what does not fit
the memory budget is handed on from there, under the freeze, piece by piece.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from sandlock_async.clock import Deadline
from sandlock_async.completion import Overdue, completed, shielded, task_group
from sandlock_async.descendants import find_descendants
from sandlock_async.errors import FreezeTimeoutError, ProcessGoneError
from sandlock_async.failure import exhaustion_explained
from sandlock_async.kernel.memory import Arena
from sandlock_async.model import FdInfo, MemoryMap, MemorySegment, ProcessState
from sandlock_async.plan import Plan
from sandlock_async.snapshot.copying import Copier, copy_overdue
from sandlock_async.snapshot.details import parse_details
from sandlock_async.snapshot.direct import DirectSource, Pending, Run
from sandlock_async.snapshot.facts import parse_fds
from sandlock_async.snapshot.mapped_files import Identities
from sandlock_async.snapshot.pieces import Piece
from sandlock_async.snapshot.subject import Subject
from sandlock_async.snapshot.survey import Survey, survey
from sandlock_async.snapshot.thread_facts import parse_threads, read_lasting
from sandlock_async.snapshot.view import View
from sandlock_async.snapshot.vm_areas import describe_areas
from sandlock_async.snapshot.window import look, release
from sandlock_async.store.buffers import Buffers
from sandlock_async.target import Target, open_target
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

Spill = Callable[[int, Plan, int, list[Run]], Awaitable[None]]
"""Takes memory that must be written while the target is frozen: the pid, the plan, the
number of the segment in it, and the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A process in view before its freeze.

    :ivar room: bytes of memory that its copy may take
    """

    target: Target
    survey: Survey
    room: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Processes as they were at one instant, in our memory; they run again.

    :ivar snapshots: of each; the target's first, then its descendants'
    :ivar threads: of all together
    :ivar attach_ms: from the first request to the first interrupt
    :ivar freeze_ms: from the first interrupt to the last detach
    :ivar spilled_bytes: what did not fit the memory budget
    :ivar ended: descendants that had ended, and that nobody had reaped
    """

    snapshots: "tuple[Snapshot, ...]"
    attach_ms: float
    freeze_ms: float
    spilled_bytes: int
    ended: tuple[int, ...]

    @property
    def threads(self) -> int:
        """How many there are in all processes."""
        return sum(len(this.view.facts.threads) for this in self.snapshots)

    def close(self) -> None:
        """Give the memory back; closing twice does nothing."""
        for snapshot in self.snapshots:
            snapshot.source.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A process as it was."""

    target: Target
    view: View
    source: DirectSource
    files: Identities

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


async def take_scene(
    sights: Sequence[Sight],
    *,
    tree: bool,
    timeout: float,
    workers: Workers,
    buffers: Buffers,
    spill: Spill,
    on_frozen: Callable[[int], None] = lambda _: None,
) -> Scene:
    """Freeze the target and what is to go with it, copy them, and let them run again.

    However this ends, when it ends all of them run.

    :param sights: the target, and its descendants as far as they are known
    :param tree: look for descendants that have been started since
    :param timeout: seconds for attach and freeze
    :param on_frozen: told the number of threads, if anything is spilled
    :return: the scene; close it when the bytes are no longer wanted
    """
    pid = sights[0].target.pid
    deadline = Deadline(timeout)
    cast: list[Subject] = []
    company = _Descendants(cast, deadline, workers, sights[0].survey, tree=tree)
    stuck = False
    try:
        for sight in sights:
            with exhaustion_explained(pid):
                cast.append(
                    await workers.acquire(
                        lambda made: made.source.close(),
                        _make_subject,
                        sight,
                        deadline,
                        workers,
                    )
                )
        began = time.monotonic()
        held = ExitStack()
        with child_stops_silenced(), held:
            with exhaustion_explained(pid):
                tracer = TracerThread(pid)
            try:
                await _look(tracer, cast, company, deadline, held)
                if any(subject.source.pending for subject in cast):
                    on_frozen(sum(len(this.view.facts.threads) for this in cast))
                    await _spill_pending(
                        tracer, cast, deadline, workers, buffers, spill
                    )
            except Overdue:
                stuck = True
                deadline.abort()  # it lets go as soon as the kernel returns
                raise _stuck_error(pid, deadline) from None
            finally:
                if stuck:
                    tracer.shutdown(wait=False)
                else:
                    # The end of the thread would let the target go as well, but not
                    # hand over the signals that were caught in flight.
                    tracer.submit(_thaw, cast)
                    await workers.run(tracer.shutdown)
        with exhaustion_explained(pid):
            await workers.run(_settle, cast)
    except BaseException:
        # A thread that is stuck may still write to the arena.
        if not stuck:
            await workers.run(_close, cast, company)
        raise
    await workers.run(company.close)
    frozen_at = min(subject.group.frozen_at for subject in cast)
    thawed_at = max(subject.group.thawed_at for subject in cast)
    return Scene(
        snapshots=tuple(
            Snapshot(
                target=subject.target,
                view=subject.view,
                source=subject.source,
                files=subject.survey.files,
            )
            for subject in cast
        ),
        attach_ms=1e3 * (frozen_at - began),
        freeze_ms=1e3 * (thawed_at - frozen_at),
        spilled_bytes=sum(
            pending.size for subject in cast for pending in subject.source.pending
        ),
        ended=tuple(sorted(company.ended)),
    )


def _make_subject(sight: Sight, deadline: Deadline, workers: Workers) -> Subject:
    arena = Arena(sight.room)
    source = DirectSource(Copier(sight.target.pid, deadline), arena, workers)
    return Subject(sight.target, sight.survey, source, deadline)


class _Descendants:
    """Finds, under the freeze, descendants that nobody had seen before it.

    :ivar ended: those that had ended before they stood still
    """

    def __init__(
        self,
        subjects: list[Subject],
        deadline: Deadline,
        workers: Workers,
        first: Survey,
        *,
        tree: bool,
    ) -> None:
        self._subjects = subjects
        self._deadline = deadline
        self._workers = workers
        self._exclude_dontdump = first.exclude_dontdump
        self._tree = tree
        self._opened: list[Target] = []
        self.ended: set[int] = set()

    def find_new(self) -> list[Subject]:
        """Return those that have not been seen yet; on the tracer's thread."""
        if not self._tree:
            return []
        known = {subject.target.pid for subject in self._subjects} | self.ended
        found: list[Subject] = []
        for pid in find_descendants(self._subjects[0].target.pid):
            if pid in known:
                continue
            try:
                target = open_target(pid)
                self._opened.append(target)
                seen = survey(target, exclude_dontdump=self._exclude_dontdump)
            except ProcessGoneError:
                self.ended.add(pid)
                continue
            room = seen.expected_bytes + NEWCOMER_GROWTH_BYTES
            sight = Sight(target=target, survey=seen, room=room)
            found.append(_make_subject(sight, self._deadline, self._workers))
        return found

    def leave(self, subject: Subject) -> None:
        """Take note that one has ended before it stood still."""
        self.ended.add(subject.target.pid)
        subject.source.close()

    def close(self) -> None:
        """Let the processes go that were found here."""
        while self._opened:
            self._opened.pop().close()


NEWCOMER_GROWTH_BYTES = 1 << 20
"""Room for what a descendant touches between the look before and its freeze."""


def _thaw(cast: list[Subject]) -> None:
    for subject in cast:
        subject.group.thaw()


def _settle(cast: list[Subject]) -> None:
    """Do what had to wait for the thaw, and give back what is not needed."""
    for subject in cast:
        target = subject.target
        subject.source.read_mapped_files(
            target.pid, target.root_fd, subject.survey.files
        )
        subject.source.trim()


def _close(cast: list[Subject], company: _Descendants) -> None:
    for subject in cast:
        subject.source.close()
    company.close()


async def _look(
    tracer: TracerThread,
    cast: list[Subject],
    company: _Descendants,
    deadline: Deadline,
    held: ExitStack,
) -> None:
    loop = LoopFacts.of(asyncio.get_running_loop())

    def job() -> None:
        for subject in cast:
            check_waiters(subject.target, loop)
        held.enter_context(polls_held(cast[0].target))
        look(cast, company)

    await completed(
        tracer.submit(job),
        on_cancel=deadline.abort,
        patience=deadline.seconds + _PATIENCE_S,
    )


async def _spill_pending(
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
            _thaw(cast)

    async def hand_on(pieces: "list[tuple[Subject, Pending]]") -> None:
        while pieces:
            subject, piece = pieces.pop()
            source = subject.source
            async with buffers.lent() as buffer:
                runs = await workers.run(
                    source.read, piece, buffer.view, buffer.address
                )
                await spill(subject.target.pid, source.plan, piece.index, runs)

    async def hand_on_all() -> None:
        pieces = [
            (subject, piece)
            for subject in reversed(cast)
            for piece in reversed(subject.source.pending)
        ]
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
