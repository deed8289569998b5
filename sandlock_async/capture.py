"""The story of a capture: attach → freeze → snapshot → thaw → write → commit.

:func:`capture_to` streams a process to a checkpoint directory, :func:`capture`
keeps it in memory. What happens while the target stands still is told in
:mod:`sandlock_async.snapshot.window`.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields

import anyio

from sandlock_async.arguments import check_arguments, check_options
from sandlock_async.budget import DEFAULT_LIMIT
from sandlock_async.checkpoint import Checkpoint, StrPath, absolute
from sandlock_async.events import Committed, Event, Frozen, Progress, Thawed
from sandlock_async.image import find_format
from sandlock_async.image.layout import child_name
from sandlock_async.image.policy import Policy
from sandlock_async.image.policy.carry import Carried, given_policy
from sandlock_async.image.writer import LaidOut, lay_out_tree
from sandlock_async.model import Picture, ProcessState
from sandlock_async.plan import Plan
from sandlock_async.report import CaptureReport
from sandlock_async.scene import Scene, Sight, Snapshot, lost_contents
from sandlock_async.sights import sighted
from sandlock_async.snapshot.direct import Run
from sandlock_async.snapshot.kept import Kept
from sandlock_async.snapshot.spill import SpillFile
from sandlock_async.store.buffers import Buffers
from sandlock_async.store.draft import drafted
from sandlock_async.strategy import Strategy
from sandlock_async.target import is_sandbox, resolve_pid
from sandlock_async.tracing import take_scene
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
        async with (
            Workers() as workers,
            sighted(target, workers, DEFAULT_LIMIT) as sights,
        ):
            carried = await workers.run(_policy, target, policy, _V1.name)
            snapshot = await _to_memory(sights, workers, kept, timeout)
            state = await workers.run(
                snapshot.process_state, _V1.holds, kept.spilled_pieces
            )
            picture = replace_fields(
                _picture(state, snapshot, carried),
                name=name or "",
                app_state=app_state,
            )
    except BaseException:
        async with Workers() as workers:
            await workers.run(kept.release)
        raise
    return Checkpoint.of(picture, kept.release, _V1.name)


async def _to_memory(
    sights: list[Sight], workers: Workers, kept: Kept, timeout: float
) -> Snapshot:
    """Take a snapshot; what does not fit the memory budget goes to a nameless file."""
    opening = anyio.Lock()
    buffers = Buffers(workers)

    async def spill(_: int, __: Plan, index: int, runs: list[Run]) -> None:
        async with opening:
            if kept.spilled is None:
                kept.spilled = await workers.acquire(SpillFile.close, SpillFile)
        await workers.run(kept.spilled.write, index, runs)

    try:
        scene = await take_scene(
            sights,
            tree=False,
            timeout=timeout,
            workers=workers,
            buffers=buffers,
            spill=spill,
        )
        kept.source = scene.snapshots[0].source
        return scene.snapshots[0]
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
    :param strategy: ``"direct"`` copies the memory while the target stands still,
        ``"fork"`` has it make a copy of itself, which is read afterwards; where none can
        be made it is ``"direct"`` after all, and the report says why. ``"auto"`` takes
        the shorter freeze
    :param tree: capture its descendants too, at the same instant, to
        ``children/PID`` in the directory, each a checkpoint of its own
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
    check_options(
        strategy=strategy,
        memory_limit=memory_limit,
        operation_id=operation_id,
        recipients=recipients,
    )
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
        sighted(
            target,
            workers,
            memory_limit,
            tree=tree,
            exclude_dontdump=exclude_dontdump,
            strategy=Strategy(strategy),
        ) as sights,
    ):
        expected = sum(sight.survey.expected_bytes for sight in sights)
        await workers.run(draft.stage.require, expected)
        done.total_bytes = expected
        carried = await workers.run(_policy, target, policy, layout.name)
        names: dict[int, list[str]] = {}
        naming = anyio.Lock()

        async def spill(who: int, plan: Plan, index: int, runs: list[Run]) -> None:
            async with naming:
                if who not in names:
                    captured = [segment.mapping.map for segment in plan.segments]
                    found = layout.segment_names(captured)
                    if who != pid:
                        await draft.add_child(who)
                        found = [child_name(who, name) for name in found]
                    names[who] = found
            size = plan.segments[index].size
            await draft.write_runs(names[who][index], size, runs)

        def frozen(threads: int) -> None:
            tell(Frozen(pid=pid, threads=threads, at=time.monotonic()))

        prepared = time.monotonic()
        scene = await take_scene(
            sights,
            tree=tree,
            timeout=timeout,
            workers=workers,
            buffers=draft.buffers,
            spill=spill,
            on_frozen=frozen,
        )
        try:
            if not scene.spilled_bytes:
                frozen(scene.threads)
            thawed = time.monotonic()
            tell(Thawed(pid=pid, freeze_ms=scene.freeze_ms, at=thawed))

            def laid_out() -> tuple[LaidOut, list[str]]:
                pictures = [
                    _picture(snapshot.process_state(layout.holds), snapshot, carried)
                    for snapshot in scene.snapshots
                ]
                first = replace_fields(
                    pictures[0], name=name or "", app_state=app_state
                ).named(destination.name)
                return (
                    lay_out_tree(first, pictures[1:], layout),
                    [lost for this in pictures for lost in lost_contents(this)],
                )

            image, lost = await workers.run(laid_out)
            for child in scene.snapshots[1:]:
                await draft.add_child(child.target.pid)
            await draft.write_memory(image.files)
            if any(this.source.unreadable for this in scene.snapshots):
                # What cannot be read of a copy has only been found out now.
                image, lost = await workers.run(laid_out)
            written = await draft.commit(image.files)
            captured = await workers.run(lambda: image.files.memory_bytes)
        finally:
            try:
                await workers.drained()
            finally:  # cancelled again: it is to be closed all the same
                left = await workers.run(scene.close)

    tell(Committed(path=destination))
    ended = time.monotonic()
    return CaptureReport(
        path=destination,
        name=image.name,
        pid=pid,
        format=layout.name,
        strategy=str(scene.snapshots[0].choice.strategy),
        reason=_reason(scene),
        threads=scene.threads,
        segments=len(image.files.segments),
        captured_bytes=captured,
        written_bytes=written,
        freeze_ms=scene.freeze_ms,
        total_ms=1e3 * (ended - began),
        phases_ms={
            "prepare": 1e3 * (prepared - began),
            "attach": scene.attach_ms,
            "freeze": scene.freeze_ms,
            "write": 1e3 * (ended - thawed),
        },
        skipped=image.skipped,
        warnings=(
            *carried.warnings,
            *image.warnings,
            *scene.warnings(),
            *lost,
            *left,
        ),
        children=tuple(child.target.pid for child in scene.snapshots[1:]),
    )


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


def _picture(state: ProcessState, snapshot: Snapshot, policy: Carried) -> Picture:
    return Picture(
        name="",
        policy=policy.data,
        policy_version=policy.version,
        process_state=state,
        fd_table=snapshot.fd_table(),
    )


def _reason(scene: Scene) -> str:
    if scene.spilled_bytes:
        return (
            f"{scene.spilled_bytes} bytes did not fit memory_limit and were "
            f"written while the process was frozen; {scene.snapshots[0].choice.reason}"
        )
    return scene.snapshots[0].choice.reason


def _policy(target: object, policy: bytes | Policy | None, default: str) -> Carried:
    sandbox = getattr(target, "_sandbox", target) if is_sandbox(target) else None
    has_lib64 = os.path.exists("/lib64")
    return given_policy(policy, sandbox, has_lib64=has_lib64, default=default)


def _ignore(_: Event) -> None:
    """Tell nobody."""
