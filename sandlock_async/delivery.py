"""A checkpoint on its way to its place: what is wanted of it, and what it has become."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from functools import partial

from sandlock_async.arguments import Order
from sandlock_async.errors import UncapturableError
from sandlock_async.events import Event, Frozen, Progress, Thawed
from sandlock_async.failure import explained
from sandlock_async.idempotence import is_done
from sandlock_async.image import layout
from sandlock_async.image.files import with_small_file
from sandlock_async.image.layout import child_name
from sandlock_async.image.operation import Operation, encode_operation
from sandlock_async.image.policy import Policy
from sandlock_async.image.policy.carry import Carried, given_policy
from sandlock_async.image.writer import LaidOut, lay_out_tree
from sandlock_async.model import MemoryMap, Picture
from sandlock_async.plan import Plan
from sandlock_async.report import CaptureReport
from sandlock_async.scene import Scene, Snapshot, lost_contents
from sandlock_async.snapshot.direct import Run
from sandlock_async.snapshot.pieces import Piece
from sandlock_async.snapshot.survey import Survey
from sandlock_async.store.draft import Draft, drafted
from sandlock_async.target import is_sandbox
from sandlock_async.workers import Workers

Tell = Callable[[Event], object]


def tell_nobody(_: Event) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A checkpoint that stands.

    :ivar lost: what waits in descriptors and is not in it, as warnings
    :ivar memory_bytes: length of its memory files together, holes included
    :ivar written_bytes: bytes written to the disk
    """

    image: LaidOut
    lost: list[str]
    memory_bytes: int
    written_bytes: int


class Delivery:
    """A checkpoint that is wanted, and the draft that is to become it.

    :ivar draft: where it is written
    """

    def __init__(
        self,
        order: Order,
        policy: Carried,
        draft: Draft,
        workers: Workers,
        progress: "_Progress",
    ) -> None:
        self.draft = draft
        self._order = order
        self._policy = policy
        self._workers = workers
        self._progress = progress
        self._began = self._prepared = progress.began
        self._names: dict[int, list[str]] = {}
        self._naming = asyncio.Lock()
        self._told: CaptureReport | None = None

    async def expect(self, surveys: Sequence[Survey]) -> None:
        """Return if there is room for these processes, each with its memory.

        :raises NoSpaceError: if not
        """
        options = self._order.options
        size = sum(this.image_bytes for this in surveys)
        if options.recipients is not None:  # what is encrypted has no holes
            size = options.recipients.sealed_bytes(
                sum(this.memory_bytes for this in surveys),
                sum(this.segments for this in surveys),
            )
        others = sum(this.metadata_bytes for this in surveys)
        others += 0 if options.app_state is None else len(options.app_state)
        inodes = sum(this.image_inodes for this in surveys)
        await self._workers.run(self.draft.stage.require, size + others, inodes)
        self._progress.total_bytes = size
        self._prepared = time.monotonic()

    def tell_frozen(self, threads: int) -> None:
        """Tell that everything stands still."""
        now = time.monotonic()
        self._progress.tell(Frozen(pid=self._order.pid, threads=threads, at=now))

    async def spill(self, who: int, plan: Plan, index: int, runs: list[Run]) -> None:
        """Write memory of process *who* that cannot wait for the thaw.

        :raises StoreError: if it cannot be written
        :raises UncapturableError: if it is to be encrypted, which goes in order only
        """
        if self.draft.stage.recipients is not None:
            raise UncapturableError(
                f"process {who} does not fit memory_limit, and what is written while it "
                "stands still cannot be encrypted",
                pid=who,
                phase="snapshot",
                help="raise memory_limit, or let it be forked (strategy='fork')",
            )
        async with self._naming:
            if who not in self._names:
                captured = [segment.mapping.map for segment in plan.segments]
                names = self._order.options.layout.segment_names(captured)
                if who != self._order.pid:
                    await self.draft.add_child(who)
                    names = [child_name(who, name) for name in names]
                self._names[who] = names
        size = plan.segments[index].size
        await self.draft.write_runs(self._names[who][index], size, runs)

    async def write(self, scene: Scene) -> Delivered:
        """Write what was seen, and put it at its place, whole.

        :raises StoreError: if it cannot be written
        :raises CaptureError: if something of it cannot be read any more
        """
        if not scene.spilled_bytes:
            self.tell_frozen(scene.threads)
        thawed = Thawed(
            pid=self._order.pid, freeze_ms=scene.freeze_ms, at=time.monotonic()
        )
        self._progress.tell(thawed)
        image, lost = await self._workers.run(self._lay_out, scene)
        for child in scene.snapshots[1:]:
            await self.draft.add_child(child.target.pid)
        await self.draft.write_memory(image.files, scene.dismiss)
        if any(this.source.unreadable for this in scene.snapshots):
            # What cannot be read of a copy has only been found out now.
            image, lost = await self._workers.run(self._lay_out, scene)
        memory = await self._workers.run(lambda: image.files.memory_bytes)
        delivered = Delivered(
            image=image,
            lost=lost,
            memory_bytes=memory,
            written_bytes=self.draft.written_bytes,
        )
        operation_id = self._order.options.operation_id
        if operation_id is not None:
            self._told = self.report(scene, delivered, {})
            content = encode_operation(Operation(id=operation_id, report=self._told))
            files = with_small_file(image.files, layout.OPERATION, content)
            await self.draft.commit(files, partial(is_done, self._order))
            return delivered
        written = await self.draft.commit(image.files)
        return replace_fields(delivered, written_bytes=written)

    def report(
        self, scene: Scene, delivered: Delivered, left: dict[int, str]
    ) -> CaptureReport:
        """Return what came of it; of a capture that has an id, what its image says.

        :param left: what could not be tidied up, by pid
        """
        untidy = [
            left[this.target.pid] for this in scene.snapshots if this.target.pid in left
        ]
        if self._told is not None:
            return replace_fields(self._told, warnings=(*self._told.warnings, *untidy))
        now = time.monotonic()
        first, image = scene.snapshots[0], delivered.image
        return CaptureReport(
            path=self._order.destination,
            name=image.name,
            pid=self._order.pid,
            format=self._order.options.layout.name,
            strategy=str(first.choice.strategy),
            reason=_reason(scene),
            threads=scene.threads,
            segments=len(image.files.segments),
            captured_bytes=delivered.memory_bytes,
            written_bytes=delivered.written_bytes,
            freeze_ms=scene.freeze_ms,
            total_ms=1e3 * (now - self._began),
            phases_ms={
                "prepare": 1e3 * (self._prepared - self._began),
                "attach": 1e3 * (scene.frozen_at - scene.began),
                "freeze": scene.freeze_ms,
                "write": 1e3 * (now - scene.thawed_at),
            },
            skipped=image.skipped,
            warnings=(
                *self._policy.warnings,
                *image.warnings,
                *scene.warnings(),
                *delivered.lost,
                *untidy,
            ),
            children=tuple(child.target.pid for child in scene.snapshots[1:]),
        )

    def _lay_out(self, scene: Scene) -> tuple[LaidOut, list[str]]:
        options = self._order.options
        pictures = [
            pictured(snapshot, self._policy, options.layout.holds)
            for snapshot in scene.snapshots
        ]
        first = replace_fields(
            pictures[0], name=options.name or "", app_state=options.app_state
        ).named(self._order.destination.name)
        lost = [lost for this in pictures for lost in lost_contents(this)]
        return lay_out_tree(first, pictures[1:], options.layout), lost


@asynccontextmanager
async def delivering(
    order: Order, workers: Workers, tell: Tell = tell_nobody
) -> AsyncGenerator[Delivery]:
    """Prepare the place of a checkpoint; unless it is written inside, nothing is left.

    :raises CheckpointExistsError: if something is there that may not be replaced
    :raises StoreError: if the place will not do
    """
    options = order.options
    progress = _Progress(tell, time.monotonic())
    policy = await workers.run(
        find_policy, order.target, options.policy, options.layout.name
    )
    async with drafted(
        order.destination,
        workers,
        replace=options.replace,
        durable=options.durable,
        recipients=options.recipients,
        on_bytes=progress.advance,
    ) as draft:
        yield Delivery(order, policy, draft, workers, progress)


@dataclass(slots=True)
class _Progress:
    """Counts bytes and tells of them."""

    tell: Tell
    began: float
    total_bytes: int = 0
    done_bytes: int = 0

    def advance(self, count: int) -> None:
        """Tell that *count* more bytes have been written."""
        self.done_bytes += count
        self.total_bytes = max(self.total_bytes, self.done_bytes)
        self.tell(Progress(done_bytes=self.done_bytes, total_bytes=self.total_bytes))


def find_policy(target: object, policy: bytes | Policy | None, default: str) -> Carried:
    """Return the policy that goes into the image: the one given, or the target's own.

    :param default: the version of an empty one
    :raises ValueError: if one given does not fit its version
    """
    sandbox = getattr(target, "_sandbox", target) if is_sandbox(target) else None
    has_lib64 = sandbox is not None and os.path.exists("/lib64")
    return given_policy(policy, sandbox, has_lib64=has_lib64, default=default)


def pictured(
    snapshot: Snapshot,
    policy: Carried,
    holds: Callable[[MemoryMap], bool],
    streamed: dict[int, list[Piece]] | None = None,
) -> Picture:
    """Return a picture, without a name, of what was seen of a process.

    :raises CaptureError: if something of it cannot be read any more
    """
    with explained(snapshot.target.pid, "write"):
        state = snapshot.process_state(holds, streamed)
    return Picture(
        name="",
        policy=policy.data,
        policy_version=policy.version,
        process_state=state,
        fd_table=snapshot.fd_table(),
    )


def _reason(scene: Scene) -> str:
    reason = scene.snapshots[0].choice.reason
    if scene.spilled_bytes:
        return (
            f"{scene.spilled_bytes} bytes did not fit memory_limit and were "
            f"written while the process was frozen; {reason}"
        )
    return reason
