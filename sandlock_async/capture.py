"""The story of a capture: attach → freeze → snapshot → thaw → write → commit.

:func:`capture_to` streams a process to a checkpoint directory, :func:`capture`
keeps it in memory. What happens while the target stands still is told in
:mod:`sandlock_async.snapshot.window`.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace as replace_fields

from sandlock_async.arguments import Options, Order, check_arguments
from sandlock_async.budget import DEFAULT_LIMIT
from sandlock_async.checkpoint import Checkpoint, StrPath, absolute
from sandlock_async.delivery import (
    Tell,
    delivering,
    find_policy,
    pictured,
    tell_nobody,
)
from sandlock_async.errors import CheckpointExistsError
from sandlock_async.events import Committed, Event
from sandlock_async.failure import exhaustion_explained
from sandlock_async.idempotence import find_done
from sandlock_async.image import find_format
from sandlock_async.image.age import as_recipients
from sandlock_async.image.policy import Policy
from sandlock_async.model import Picture
from sandlock_async.plan import Plan
from sandlock_async.report import CaptureReport
from sandlock_async.sights import sighted
from sandlock_async.snapshot.direct import Run
from sandlock_async.snapshot.kept import Kept
from sandlock_async.snapshot.spill import SpillFile
from sandlock_async.store.buffers import Buffers
from sandlock_async.strategy import Strategy
from sandlock_async.target import resolve_pid
from sandlock_async.tracing import close_scene, take_scene
from sandlock_async.workers import Workers

_V1 = find_format("v1")


async def capture(
    target: object,
    *,
    name: str | None = None,
    policy: bytes | Policy | None = None,
    app_state: bytes | None = None,
    timeout: float = 10.0,
) -> Checkpoint:
    """Return a consistent picture of a running process, held in memory.

    The process stands still for a moment, and runs on. Close the checkpoint
    (``async with``) to give the memory back. What exceeds 256 MiB is kept in a
    temporary file instead, and lengthens the freeze.

    :param target: a pid, or anything with a ``pid``
    :param name: the checkpoint's name; by default that of the directory it is saved in
    :param policy: sandlock's ``policy.dat``, as bytes or decoded; by default that of
        the sandbox given as *target*, or an empty one
    :param app_state: bytes to keep with it
    :param timeout: seconds for attach and freeze
    :raises CaptureError: in all its forms; the message says why, ``help`` what helps
    :raises ValueError: if *target* is not a process
    """
    resolve_pid(target)
    check_arguments(name=name, policy=policy, app_state=app_state, timeout=timeout)
    kept = Kept()
    try:
        with exhaustion_explained(resolve_pid(target)):
            async with Workers() as workers:
                picture = await workers.alone(
                    _to_memory(target, policy, workers, kept, timeout)
                )
    except BaseException:
        await _release(kept)
        raise
    named = replace_fields(picture, name=name or "", app_state=app_state)
    return Checkpoint.of(named, kept.release, _V1.name)


async def _release(kept: Kept) -> None:
    try:
        async with Workers() as workers:
            await workers.run(kept.release)
    except OSError:  # there can be no more threads
        kept.release()


async def _to_memory(
    target: object,
    policy: bytes | Policy | None,
    workers: Workers,
    kept: Kept,
    timeout: float,
) -> Picture:
    """Take a picture; what does not fit the memory budget goes to a nameless file."""
    opening = asyncio.Lock()
    buffers = Buffers(workers)

    async def spill(_: int, __: Plan, index: int, runs: list[Run]) -> None:
        async with opening:
            if kept.spilled is None:
                kept.spilled = await workers.acquire(SpillFile.close, SpillFile)
        await workers.run(kept.spilled.write, index, runs)

    try:
        async with sighted(
            {resolve_pid(target): target}, workers, DEFAULT_LIMIT
        ) as sights:
            carried = await workers.run(find_policy, target, policy, _V1.name)
            scene = await take_scene(
                sights,
                timeout=timeout,
                workers=workers,
                buffers=buffers,
                spill=spill,
            )
            snapshot = scene.snapshots[0]
            kept.source = snapshot.source
            return await workers.run(
                pictured, snapshot, carried, _V1.holds, kept.spilled_pieces
            )
    finally:
        try:
            await workers.drained()
        finally:
            buffers.close()


async def capture_to(
    target: object,
    directory: StrPath,
    *,
    name: str | None = None,
    policy: bytes | Policy | None = None,
    app_state: bytes | None = None,
    format: str = "v1",
    strategy: str = "auto",
    tree: bool = False,
    exclude_dontdump: bool = False,
    operation_id: str | None = None,
    recipients: Iterable[object] | None = (),
    timeout: float = 10.0,
    memory_limit: int = DEFAULT_LIMIT,
    replace: bool = False,
    durable: bool = True,
    on_event: Callable[[Event], object] | None = None,
) -> CaptureReport:
    """Write a consistent picture of a running process to a checkpoint directory.

    The process stands still for a moment, and runs on. The directory appears whole,
    or not at all.

    :param target: a pid, or anything with a ``pid``
    :param directory: the checkpoint; parents are made
    :param name: the checkpoint's name; by default that of the directory
    :param policy: sandlock's ``policy.dat``, as bytes or decoded; by default that of
        the sandbox given as *target*, or an empty one
    :param app_state: bytes to keep with it
    :param format: the layout: ``"v1"`` is sandlock 0.8.2's, ``"v2"`` 0.8.6's, ``"v3"``
        0.9.0's
    :param strategy: ``"direct"`` copies the memory while the target stands still,
        ``"fork"`` has it make a copy of itself, which is read afterwards; where none can
        be made it is ``"direct"`` after all, and the report says why. ``"auto"`` takes
        the shorter freeze
    :param tree: capture its descendants too, at the same instant, to
        ``children/PID`` in the directory, each a checkpoint of its own
    :param exclude_dontdump: leave out what the program wants in no core dump
        (MADV_DONTDUMP); the report lists it as skipped
    :param recipients: encrypt every file for these (extra ``crypt``): ``age1…``, an SSH
        public key, or recipients of pyrage; ``age -d`` opens them, and
        :meth:`Checkpoint.load` with *identities*. Nothing is for None, and by default;
        something else that is empty is refused
    :param operation_id: a name for this very capture: if the checkpoint that is there is
        from a capture of that name nothing is done, and its report is returned again;
        not with *recipients*
    :param timeout: seconds for attach and freeze; the writing afterwards is free
    :param memory_limit: bytes of memory that all captures of this process may hold at
        once; a target with more is written to the disk while it is frozen
    :param replace: swap it with a checkpoint that is there, in one step
    :param durable: fsync everything, so that it survives a power cut
    :param on_event: told what happens, on the event loop
    :raises CaptureError: in all its forms; the message says why, ``help`` what helps
    :raises CheckpointExistsError: if something is there, without *replace*
    :raises NoSpaceError: if the disk has no room, before the freeze where it can be
        foreseen
    :raises StoreError: if the directory cannot be written
    :raises UnusableKeyError: if a recipient is none, or pyrage is not installed
    :raises ValueError: for a wrong argument, or one not available in this release
    """
    order = Order(
        target=target,
        pid=resolve_pid(target),
        destination=absolute(directory),
        options=Options(
            name=name,
            policy=policy,
            app_state=app_state,
            format=format,
            strategy=strategy,
            tree=tree,
            exclude_dontdump=exclude_dontdump,
            operation_id=operation_id,
            recipients=as_recipients(recipients),
            timeout=timeout,
            memory_limit=memory_limit,
            replace=replace,
            durable=durable,
        ),
    )
    with exhaustion_explained(order.pid):
        async with Workers() as workers:
            if (
                on_event is not None
            ):  # it is called on the event loop: all is done there
                return await carry_out(order, workers, on_event)
            return await workers.alone(carry_out(order, workers))


async def carry_out(
    order: Order, workers: Workers, tell: Tell = tell_nobody
) -> CaptureReport:
    """Make the checkpoint that is wanted of one process, unless it is there already."""
    done = await workers.run(find_done, order)
    if done is not None:
        return done
    try:
        return await _carry_out(order, workers, tell)
    except CheckpointExistsError:
        # The same may have been asked for twice at the same time.
        done = await workers.run(find_done, order)
        if done is None:
            raise
        return done


async def _carry_out(order: Order, workers: Workers, tell: Tell) -> CaptureReport:
    options = order.options
    async with (
        delivering(order, workers, tell) as delivery,
        sighted(
            {order.pid: order.target},
            workers,
            options.memory_limit,
            tree=options.tree,
            exclude_dontdump=options.exclude_dontdump,
            strategy=Strategy(options.strategy),
        ) as sights,
    ):
        await delivery.expect([sight.survey for sight in sights])
        scene = await take_scene(
            sights,
            tree=options.tree,
            timeout=options.timeout,
            workers=workers,
            buffers=delivery.draft.buffers,
            spill=delivery.spill,
            on_frozen=delivery.tell_frozen,
        )
        try:
            delivered = await delivery.write(scene)
        finally:
            left = await close_scene(scene, workers)

    tell(Committed(path=order.destination))
    return delivery.report(scene, delivered, left)
