"""The story of a capture: attach → freeze → snapshot → thaw → write → commit.

:func:`capture_to` streams a process to a checkpoint directory, :func:`capture`
keeps it in memory. What happens while the target stands still is told in
:mod:`sandlock_async.snapshot.window`.
"""

import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from sandlock_async.arguments import check_arguments
from sandlock_async.budget import BUDGET, DEFAULT_LIMIT
from sandlock_async.checkpoint import Checkpoint, StrPath, absolute
from sandlock_async.events import Committed, Event, Frozen, Progress, Thawed
from sandlock_async.failure import exhaustion_explained
from sandlock_async.image import find_format
from sandlock_async.image.policy import Policy
from sandlock_async.image.policy.carry import Carried, given_policy
from sandlock_async.image.writer import lay_out
from sandlock_async.model import Picture, ProcessState
from sandlock_async.plan import Plan
from sandlock_async.report import CaptureReport
from sandlock_async.snapshot.direct import Run
from sandlock_async.snapshot.kept import Kept
from sandlock_async.snapshot.spill import SpillFile
from sandlock_async.snapshot.survey import Survey, survey
from sandlock_async.store.buffers import Buffers
from sandlock_async.store.draft import drafted
from sandlock_async.target import Target, is_sandbox, open_target, resolve_pid
from sandlock_async.tracing import Snapshot, take_snapshot
from sandlock_async.workers import Workers

_GROWTH_BYTES = 8 << 20
"""Room for what the target touches between the look before and the freeze."""

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
        async with (
            Workers() as workers,
            _sighted(target, workers, DEFAULT_LIMIT) as sight,
        ):
            carried = await workers.run(_policy, target, policy, _V1.name)
            snapshot = await _to_memory(sight, workers, kept, timeout)
            state = await workers.run(
                snapshot.process_state, _V1.holds, kept.spilled_pieces
            )
            picture = _picture(state, snapshot, name, carried, app_state)
    except BaseException:
        async with Workers() as workers:
            await workers.run(kept.release)
        raise
    return Checkpoint.of(picture, kept.release, _V1.name)


async def _to_memory(
    sight: "_Sight", workers: Workers, kept: Kept, timeout: float
) -> Snapshot:
    """Take a snapshot; what does not fit the memory budget goes to a nameless file."""
    opening = anyio.Lock()
    buffers = Buffers(workers)

    async def spill(_: Plan, index: int, runs: list[Run]) -> None:
        async with opening:
            if kept.spilled is None:
                kept.spilled = await workers.acquire(SpillFile.close, SpillFile)
        await workers.run(kept.spilled.write, index, runs)

    try:
        snapshot = await take_snapshot(
            sight.target,
            sight.survey,
            room=sight.room,
            timeout=timeout,
            workers=workers,
            buffers=buffers,
            spill=spill,
        )
        kept.source = snapshot.source
        return snapshot
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
    recipients: Sequence[object] = (),
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
    :param strategy: ``"auto"`` or ``"direct"``
    :param exclude_dontdump: leave out what the program wants in no core dump
        (MADV_DONTDUMP); the report lists it as skipped
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
    :raises ValueError: for a wrong argument, or one not available in this release
    """
    began = time.monotonic()
    pid = resolve_pid(target)
    destination = absolute(directory)
    layout = find_format(format)
    check_arguments(name=name, policy=policy, app_state=app_state, timeout=timeout)
    _check_available(
        strategy=strategy,
        tree=tree,
        operation_id=operation_id,
        recipients=recipients,
    )
    if memory_limit < 0:
        raise ValueError(f"memory_limit must not be negative, but is {memory_limit}")
    tell = on_event if on_event is not None else _ignore
    done = _Progress(tell)

    async with (
        Workers() as workers,
        drafted(
            destination,
            workers,
            replace=replace,
            durable=durable,
            on_bytes=done.advance,
        ) as draft,
        _sighted(
            target, workers, memory_limit, exclude_dontdump=exclude_dontdump
        ) as sight,
    ):
        await workers.run(draft.stage.require, sight.survey.expected_bytes)
        done.total_bytes = sight.survey.expected_bytes
        carried = await workers.run(_policy, target, policy, layout.name)

        names: list[str] = []

        async def spill(plan: Plan, index: int, runs: list[Run]) -> None:
            if not names:
                captured = [segment.mapping.map for segment in plan.segments]
                names.extend(layout.segment_names(captured))
            size = plan.segments[index].size
            await draft.write_runs(names[index], size, runs)

        def frozen(threads: int) -> None:
            tell(Frozen(pid=pid, threads=threads, at=time.monotonic()))

        prepared = time.monotonic()
        snapshot = await take_snapshot(
            sight.target,
            sight.survey,
            room=sight.room,
            timeout=timeout,
            workers=workers,
            buffers=draft.buffers,
            spill=spill,
            on_frozen=frozen,
        )
        try:
            if not snapshot.spilled_bytes:
                frozen(snapshot.threads)
            thawed = time.monotonic()
            tell(Thawed(pid=pid, freeze_ms=snapshot.freeze_ms, at=thawed))
            state = await workers.run(snapshot.process_state, layout.holds)
            picture = _picture(state, snapshot, name, carried, app_state)
            picture = picture.named(destination.name)
            laid_out = await workers.run(lay_out, picture, layout)
            written = await draft.commit(laid_out.files)
            captured = await workers.run(lambda: laid_out.files.memory_bytes)
        finally:
            try:
                await workers.drained()
            finally:  # cancelled again: it is to be closed all the same
                await workers.run(snapshot.source.close)

    tell(Committed(path=destination))
    ended = time.monotonic()
    return CaptureReport(
        path=destination,
        name=picture.name,
        pid=pid,
        format=layout.name,
        strategy="direct",
        reason=_reason(snapshot),
        threads=snapshot.threads,
        segments=len(laid_out.files.segments),
        captured_bytes=captured,
        written_bytes=written,
        freeze_ms=snapshot.freeze_ms,
        total_ms=1e3 * (ended - began),
        phases_ms={
            "prepare": 1e3 * (prepared - began),
            "attach": snapshot.attach_ms,
            "freeze": snapshot.freeze_ms,
            "write": 1e3 * (ended - thawed),
        },
        skipped=state.skipped,
        warnings=(*carried.warnings, *laid_out.warnings),
    )


@dataclass(frozen=True, slots=True)
class _Sight:
    """A target in view, and the memory that its copy may take."""

    target: Target
    survey: Survey
    room: int


@asynccontextmanager
async def _sighted(
    target: object,
    workers: Workers,
    memory_limit: int,
    *,
    exclude_dontdump: bool = False,
) -> AsyncGenerator[_Sight]:
    """Pin the target, look at its memory, and wait for room for a copy of it."""
    with exhaustion_explained(resolve_pid(target)):
        opened = await workers.acquire(Target.close, open_target, target)
    with opened:
        with exhaustion_explained(opened.pid):
            seen = await workers.run(survey, opened, exclude_dontdump=exclude_dontdump)
        wanted = seen.expected_bytes + seen.expected_bytes // 8 + _GROWTH_BYTES
        async with BUDGET.reserved(wanted, memory_limit) as room:
            yield _Sight(opened, seen, room)


@dataclass(slots=True)
class _Progress:
    """Counts bytes and tells of them."""

    tell: Callable[[Event], object]
    total_bytes: int = 0
    done_bytes: int = 0

    def advance(self, count: int) -> None:
        """Tell that *count* more bytes have been written."""
        self.done_bytes += count
        self.total_bytes = max(self.total_bytes, self.done_bytes)
        self.tell(Progress(done_bytes=self.done_bytes, total_bytes=self.total_bytes))


def _picture(
    state: ProcessState,
    snapshot: Snapshot,
    name: str | None,
    policy: Carried,
    app_state: bytes | None,
) -> Picture:
    return Picture(
        name=name or "",
        policy=policy.data,
        policy_version=policy.version,
        process_state=state,
        fd_table=snapshot.fd_table(),
        app_state=app_state,
    )


def _reason(snapshot: Snapshot) -> str:
    if snapshot.spilled_bytes:
        return (
            f"{snapshot.spilled_bytes} bytes did not fit memory_limit and were "
            "written while the process was frozen"
        )
    return "all of it fitted memory_limit and was copied to memory"


def _policy(target: object, policy: bytes | Policy | None, default: str) -> Carried:
    sandbox = getattr(target, "_sandbox", target) if is_sandbox(target) else None
    has_lib64 = os.path.exists("/lib64")
    return given_policy(policy, sandbox, has_lib64=has_lib64, default=default)


def _check_available(
    *,
    strategy: str,
    tree: bool,
    operation_id: str | None,
    recipients: Sequence[object],
) -> None:
    if strategy not in ("auto", "direct"):
        raise ValueError(f"unknown strategy {strategy!r}: 'auto' or 'direct'")
    wanted = {
        "tree=": tree,
        "operation_id=": operation_id is not None,
        "recipients=": bool(recipients),
    }
    for option, given in wanted.items():
        if given:
            raise ValueError(f"{option} is not available in this release")


def _ignore(_: Event) -> None:
    """Tell nobody."""
