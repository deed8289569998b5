"""The event loop's side of a freeze: it starts it, waits for it, and ends it.

Everything that touches the target runs on the tracer's thread.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from sandlock_async.clock import Deadline
from sandlock_async.company import Descendants, Equals, make_subject
from sandlock_async.completion import Overdue
from sandlock_async.errors import FreezeTimeoutError, WaitConflictError
from sandlock_async.failure import explained
from sandlock_async.reaping import Copies
from sandlock_async.scene import Scene, Sight, Snapshot
from sandlock_async.snapshot.fd_late import read_late
from sandlock_async.snapshot.subject import Subject
from sandlock_async.snapshot.thread_facts import read_lasting
from sandlock_async.snapshot.vm_areas import settle_flags
from sandlock_async.snapshot.window import look
from sandlock_async.spilling import Spill, spill_pending, thaw
from sandlock_async.store.buffers import Buffers
from sandlock_async.tracer import TracerThread
from sandlock_async.waiters import (
    LoopFacts,
    check_waiters,
    child_stops_silenced,
    polls_held,
)
from sandlock_async.workers import Workers

_PATIENCE_S = 2.0
"""How long after its timeout a thread that is stuck in the kernel is waited for."""


async def take_scene(
    sights: Sequence[Sight],
    *,
    tree: bool = False,
    left: dict[int, Exception] | None = None,
    timeout: float,
    workers: Workers,
    buffers: Buffers,
    spill: Spill,
    on_frozen: Callable[[int], None] = lambda _: None,
) -> Scene:
    """Freeze the target and what is to go with it, copy them, and let them run again.

    However this ends, when it ends all of them run.

    :param sights: the target, and its descendants as far as they are known; or targets
    :param tree: look for descendants that have been started since
    :param left: where the errors go of targets that the others go on without, by pid;
        if None, the first is the only target
    :param timeout: seconds for attach and freeze
    :param on_frozen: told the number of threads, if anything is spilled
    :return: the scene; close it when the bytes are no longer wanted
    """
    pid = sights[0].target.pid
    deadline = Deadline(timeout)
    cast: list[Subject] = []
    company = (
        Descendants(cast, deadline, workers, sights[0].survey, tree=tree)
        if left is None
        else Equals(cast, left)
    )
    loop = LoopFacts.of(workers.loop)
    copies = Copies(cast, loop)
    stuck = False
    try:
        for sight in sights:
            cast.append(  # noqa: PERF401 - what there is is closed if another fails
                await workers.acquire(
                    lambda made: made.direct.close(),
                    _make_subject,
                    sight,
                    deadline,
                    workers,
                )
            )
        began = time.monotonic()
        held = ExitStack()
        with ExitStack() as silenced, held:
            with explained(pid, "prepare"):
                silenced.enter_context(child_stops_silenced())
                tracer = TracerThread(pid)
            try:
                await _look(tracer, cast, company, deadline, held, loop, workers)
                if any(subject.direct.pending for subject in cast):
                    on_frozen(sum(len(this.view.facts.threads) for this in cast))
                    await spill_pending(tracer, cast, deadline, workers, buffers, spill)
                if any(subject.snapshot for subject in cast):
                    holding = workers.submit(copies.hold, deadline)
                    await workers.completed(holding, on_cancel=deadline.abort)
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
                    tracer.submit(thaw, cast)
                    await workers.run(tracer.shutdown)
        await workers.run(_settle, cast)
        await workers.run(company.close)
    except BaseException:
        # A thread that is stuck may still write to the arena.
        if not stuck:
            await workers.run(_close, cast, company, copies)
        raise
    return Scene(
        snapshots=tuple(
            Snapshot(
                target=subject.target,
                view=subject.view,
                source=subject.source,
                choice=subject.choice,
                files=subject.survey.files,
                fds=subject.late,
                lasting=subject.lasting,
                flags=subject.flags,
                others=tuple(
                    raw
                    for other in cast
                    if other is not subject
                    for raw in other.view.facts.fds
                ),
                frozen_at=subject.group.frozen_at,
                thawed_at=subject.group.thawed_at,
                spilled_bytes=sum(piece.size for piece in subject.direct.pending),
            )
            for subject in cast
        ),
        began=began,
        ended=company.ended,
        dismiss_copies=copies.dismiss,
        end_copies=copies.end,
    )


async def close_scene(scene: Scene, workers: Workers) -> dict[int, str]:
    """Give back what a scene holds, when nobody reads it any more.

    :return: what could not be tidied up, as warnings, by pid of the process
    """
    try:
        await workers.drained()
    finally:  # cancelled again: it is to be closed all the same
        left = await workers.run(scene.close)
    return left


def _make_subject(sight: Sight, deadline: Deadline, workers: Workers) -> Subject:
    with explained(sight.target.pid, "prepare"):
        return make_subject(sight, deadline, workers)


def _settle(cast: list[Subject]) -> None:
    """Do what had to wait for the thaw, and give back what is not needed."""
    for subject in cast:  # before the disk is waited for
        pid = subject.target.pid
        with explained(pid, "snapshot"):
            subject.late = read_late(subject.target, subject.view.facts.fds)
            subject.lasting = read_lasting(subject.target, subject.view.facts.threads)
            subject.flags = settle_flags(pid, subject.survey, subject.view)
    for subject in cast:
        target = subject.target
        with explained(target.pid, "snapshot"):
            if subject.forked is not None:
                subject.forked.look()
            subject.source.read_mapped_files(
                target.pid, target.root_fd, subject.survey.files
            )
            subject.direct.trim()


def _close(cast: list[Subject], company: Descendants | Equals, copies: Copies) -> None:
    try:
        copies.end()
    finally:
        for subject in cast:
            subject.source.close()
        company.close()


async def _look(
    tracer: TracerThread,
    cast: list[Subject],
    company: Descendants | Equals,
    deadline: Deadline,
    held: ExitStack,
    loop: LoopFacts,
    workers: Workers,
) -> None:
    def job() -> None:
        for subject in tuple(cast):
            try:
                check_waiters(subject.target, loop)
                held.enter_context(polls_held(subject.target))
            except WaitConflictError as error:
                company.leave(subject, error)
        look(cast, company)

    await workers.completed(
        tracer.submit(job),
        on_cancel=deadline.abort,
        patience=deadline.seconds + _PATIENCE_S,
    )


def _stuck_error(pid: int, deadline: Deadline) -> FreezeTimeoutError:
    return FreezeTimeoutError(
        pid,
        "attach",
        f"the kernel did not let us attach to process {pid} in {deadline.seconds:g} s: "
        "it is in the middle of an execve(2) that does not end",
        help="try again later",
    )
