"""The fork source: a copy of the process, made under the freeze and read after it.

What fork(2) does not copy (shared memory, MADV_DONTFORK, …) was read while the
process stood still: that is a direct source inside this one.
"""

import math
import threading
from collections.abc import Sequence
from operator import attrgetter

from sandlock_async.clock import Deadline
from sandlock_async.denial import is_over
from sandlock_async.errors import UncapturableError
from sandlock_async.injection.snapshots import Snapshot
from sandlock_async.kernel.memory import address_of
from sandlock_async.model import MemorySegment, Skipped
from sandlock_async.plan import Plan, SegmentPlan, plan_segments
from sandlock_async.procfs.maps import parse_smaps
from sandlock_async.selection import Selection, VmFlags, Wanted
from sandlock_async.snapshot.copying import Copier
from sandlock_async.snapshot.direct import DirectSource
from sandlock_async.snapshot.mapped_files import Identities, MappedFiles
from sandlock_async.snapshot.pages import scan_pages
from sandlock_async.snapshot.pieces import Backing, Piece, PiecedData
from sandlock_async.snapshot.source import Source

_start_of = attrgetter("start")


class ForkedSource(Source):
    """Reads a snapshot, piece by piece, whenever somebody wants a piece.

    :param direct: what was read under the freeze
    :param copied: what the snapshot has
    """

    def __init__(
        self,
        direct: DirectSource,
        snapshot: Snapshot,
        copied: Selection,
        vm_flags: VmFlags,
    ) -> None:
        self._direct = direct
        self._snapshot = snapshot
        self._target = snapshot.of_pid
        self._pid = snapshot.pid
        self._copied = copied
        self._vm_flags = vm_flags
        self._forked = Plan(segments=(), skipped=())
        self._plan = direct.plan
        self._files: MappedFiles | None = None
        self._memory = _SnapshotBacking(snapshot)

    def look(self) -> None:
        """Find out what the snapshot has; after it has settled. Blocks.

        :raises UncapturableError: if somebody has killed it
        """
        try:
            pages = scan_pages(self._pid, self._copied, self._vm_flags, hold_gil=False)
            lost = self._not_copied()
            # Of one that has ended smaps is empty, and no page is there: no error.
            self._snapshot.check_alive()
        except OSError as error:
            if not is_over(error, self._pid):
                raise
            raise lost_copy_error(self._target) from error
        plan = plan_segments(self._copied, self._vm_flags, pages)
        segments = [this for this in plan.segments if this.start not in lost]
        direct = self._direct.plan
        self._forked = Plan(
            segments=tuple(segments), skipped=(*plan.skipped, *lost.values())
        )
        self._plan = Plan(
            segments=tuple(sorted((*direct.segments, *segments), key=_start_of)),
            skipped=(*direct.skipped, *self._forked.skipped),
        )

    @property
    def plan(self) -> Plan:
        return self._plan

    def read_mapped_files(self, pid: int, root_fd: int, before: Identities) -> None:
        self._direct.read_mapped_files(pid, root_fd, before)
        self._files = MappedFiles(pid, root_fd, before)
        self._files.read(enumerate(self._forked.segments))

    def segments(
        self, streamed: dict[int, list[Piece]] | None = None
    ) -> tuple[MemorySegment, ...]:
        files = self._files.pieces if self._files is not None else {}
        found = [
            MemorySegment(
                start=segment.start,
                data=PiecedData(
                    segment.size,
                    sorted(
                        [*self._pieces(segment), *files.get(index, ())],
                        key=_start_of,
                    ),
                ),
            )
            for index, segment in enumerate(self._forked.segments)
        ]
        return tuple(sorted((*self._direct.segments(streamed), *found), key=_start_of))

    def skipped(self) -> tuple[Skipped, ...]:
        reasons = [*self._direct.skipped(), *self._forked.skipped]
        if self._files is not None:
            reasons += self._files.skipped
        segments = self._forked.segments
        for start, end in self._memory.unreadable():
            segment = next(this for this in reversed(segments) if this.start <= start)
            reasons.append(
                Skipped(
                    start=start,
                    end=end,
                    path=segment.mapping.map.path,
                    reason="the kernel cannot read it (device or failed page)",
                )
            )
        return tuple(sorted(reasons, key=_start_of))

    @property
    def unreadable(self) -> bool:
        return bool(self._memory.unreadable())

    def close(self) -> None:
        if self._files is not None:
            self._files.close()
        self._direct.close()

    def _pieces(self, segment: SegmentPlan) -> list[Piece]:
        flat = segment.populated
        return [
            Piece(low - segment.start, high - segment.start, self._memory, low)
            for low, high in zip(flat[0::2], flat[1::2], strict=True)
        ]

    def _not_copied(self) -> dict[int, Skipped]:
        """Return what the snapshot lacks though the flags before the freeze had it."""
        with open(f"/proc/{self._pid}/smaps", "rb", buffering=0) as file:
            flags = parse_smaps(file.readall())
        there = {mapping.map.start: these for mapping, these in flags.items()}
        lost: dict[int, Skipped] = {}
        for this in (*self._copied.whole, *self._copied.changed):
            reason = _why_lost(there.get(this.start))
            if reason:
                lost[this.start] = _skipped(this, reason)
        return lost


class _SnapshotBacking(Backing):
    """The memory of a snapshot, by address; as it would be if we had not touched it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._copier = Copier(snapshot.pid, Deadline(math.inf), shares_pages=True)
        self._unreadable: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self.gather([(offset, offset + len(buffer))], buffer)

    def gather(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        flat = [edge for both in ranges for edge in both]
        try:
            bad = self._copier.copy(flat, address_of(buffer), hold_gil=False)
        except OSError as error:
            if not is_over(error, self._snapshot.pid):
                raise
            raise lost_copy_error(self._snapshot.of_pid) from error
        start, content = self._snapshot.changed
        _put_back(buffer, ranges, start, content)
        if bad:
            _clear(buffer, ranges, bad)
            with self._lock:
                self._unreadable += bad

    def unreadable(self) -> list[tuple[int, int]]:
        """Return what could not be read so far."""
        return sorted(set(self._unreadable))


def _put_back(
    buffer: memoryview, ranges: Sequence[tuple[int, int]], low: int, content: bytes
) -> None:
    """Write *content*, which belongs at address *low*, where it lies in *buffer*."""
    high = low + len(content)
    if not ranges or ranges[-1][1] <= low or high <= ranges[0][0]:
        return
    position = 0
    for start, stop in ranges:
        first, last = max(start, low), min(stop, high)
        if first < last:
            at = position + first - start
            buffer[at : at + last - first] = content[first - low : last - low]
        position += stop - start


def _clear(
    buffer: memoryview,
    ranges: Sequence[tuple[int, int]],
    bad: Sequence[tuple[int, int]],
) -> None:
    """Zero what is *bad* of *ranges*, in their order, where it lies in *buffer*."""
    rest = list(reversed(bad))
    position = 0
    for start, stop in ranges:
        while rest and start <= rest[-1][0] < stop:
            low, high = rest.pop()
            at = position + low - start
            buffer[at : at + high - low] = bytes(high - low)
        position += stop - start


def lost_copy_error(pid: int) -> UncapturableError:
    """Return the error for a copy that somebody has killed."""
    return UncapturableError(
        f"the copy of process {pid} was killed before it had been read, for want of "
        "memory or together with its process group",
        pid=pid,
        phase="write",
        help="try again, or with strategy='direct'",
    )


def _why_lost(flags: frozenset[str] | None) -> str:
    if flags is None:
        return "no fork copies it: it was made MADV_DONTFORK just before the freeze"
    if "wf" in flags:
        return "no fork copies it: it was made MADV_WIPEONFORK just before the freeze"
    return ""


def _skipped(this: Wanted, reason: str) -> Skipped:
    return Skipped(
        start=this.start, end=this.end, path=this.mapping.map.path, reason=reason
    )
