"""The direct source: memory copied while the target stands still.

What fits the arena is copied there and the target can run on at once. The rest is
``pending``: it must be read, piece by piece, before the thaw.
"""

import concurrent.futures
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sandlock_async.kernel.memory import Arena
from sandlock_async.model import MemorySegment, Skipped
from sandlock_async.plan import Plan, SegmentPlan, gaps
from sandlock_async.selection import Via
from sandlock_async.snapshot.copying import Copier
from sandlock_async.snapshot.mapped_files import Identities, MappedFiles
from sandlock_async.snapshot.pieces import (
    MemoryBacking,
    Piece,
    PiecedData,
)
from sandlock_async.snapshot.shared_memory import SharedMemory
from sandlock_async.snapshot.source import Source

PIECE_BYTES = 4 << 20
"""Size of a piece that is read while frozen, and of the buffers for it."""

Run = tuple[int, memoryview]
"""Offset in a segment, and the bytes from there on."""

_HOLD_GIL_BYTES = 8 << 20  # about 2 ms: nobody misses the GIL, and none is waited for
_TWO_READERS_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Pending:
    """Address *ranges* (flat) of segment number *index*, to be read before the thaw.

    :ivar size: their bytes, at most :data:`PIECE_BYTES`
    """

    index: int
    ranges: list[int]
    size: int


class DirectSource(Source):
    """Copies what a plan names, and gives it out as segments.

    :param arena: memory to copy to; its size decides how much fits
    :param readers: threads of which one may help with a large copy
    :ivar pending: what did not fit
    """

    def __init__(
        self, copier: Copier, arena: Arena, readers: concurrent.futures.Executor
    ) -> None:
        self._copier = copier
        self._arena = arena
        self._readers = readers
        self._backing = MemoryBacking(arena.view)
        self._plan = Plan(segments=(), skipped=())
        self._inside: list[int] = []
        self._has_rest = False
        self._shared = SharedMemory()
        self._places: list[_Place] = []
        self._unreadable: list[tuple[int, int]] = []
        self._files: MappedFiles | None = None
        self.pending: list[Pending] = []

    def copy(self, plan: Plan, shared: SharedMemory) -> None:
        """Copy what fits; call while the target is frozen, on the tracer's thread.

        :param shared: the open files of shared memory; they are closed with the source
        :raises ProcessGoneError: if the process is killed meanwhile
        """
        self._unreadable, self.pending = [], []
        if plan is not self._plan:
            self._plan, self._places = plan, []
            # The ordinary ones lie together in the arena: one call takes many.
            ordinary: list[int] = []
            for segment in plan.segments:
                if segment.via is Via.MEMORY:
                    ordinary += segment.populated
            self._inside, outside = _split(ordinary, self._arena.size)
            self._has_rest = bool(outside) or any(
                segment.via is not Via.MEMORY for segment in plan.segments
            )
        self._shared = shared
        self._copy_ordinary(self._inside)
        if self._has_rest:
            self._copy_the_rest()

    def _copy_the_rest(self) -> None:
        for index, place in enumerate(self._placed()):
            self.pending += _pieces(index, place.outside)
            segment = self._plan.segments[index]
            if segment.via is not Via.MEMORY and place.size:
                address = self._arena.address + place.offset
                self._unreadable += self._copy_special(segment, place.inside, address)

    def _copy_special(
        self, segment: SegmentPlan, ranges: list[int], address: int
    ) -> list[tuple[int, int]]:
        if segment.via is Via.FORCED:
            return self._copier.copy_forced(ranges, address)
        shift = segment.mapping.map.offset - segment.start
        fd = self._shared.fds[segment.start]
        return self._copier.copy_shared(fd, shift, ranges, address)

    @property
    def plan(self) -> Plan:
        return self._plan

    def read(self, pending: Pending, buffer: memoryview, address: int) -> list[Run]:
        """Read a pending piece, packed, to *buffer*, which lies at *address*.

        Any thread; only while the target is frozen. What cannot be read is zero.

        :return: what lies where: offset in the segment, and the bytes
        """
        segment = self._plan.segments[pending.index]
        buffer = buffer[: pending.size]
        if segment.via is Via.MEMORY:
            bad = self._copier.copy(pending.ranges, address, hold_gil=False)
        else:
            bad = self._copy_special(segment, pending.ranges, address)
        runs: list[Run] = []
        position = 0
        for start, end in _pairs(pending.ranges):
            run = buffer[position : position + end - start]
            for low, high in bad:
                if start <= low < end:
                    run[low - start : high - start] = bytes(high - low)
            runs.append((start - segment.start, run))
            position += end - start
        self._unreadable += bad
        return runs

    def read_mapped_files(self, pid: int, root_fd: int, before: Identities) -> None:
        self._files = MappedFiles(pid, root_fd, before)
        self._files.read(enumerate(self._plan.segments))

    def segments(
        self, streamed: dict[int, list[Piece]] | None = None
    ) -> tuple[MemorySegment, ...]:
        found: list[MemorySegment] = []
        unreadable = sorted(self._unreadable)
        files = self._files.pieces if self._files is not None else {}
        placed = self._placed()
        for index, segment in enumerate(self._plan.segments):
            pieces = self._memory_pieces(segment, placed[index], unreadable)
            more = [*files.get(index, ()), *(streamed or {}).get(index, ())]
            if more:
                pieces = sorted([*pieces, *more], key=lambda piece: piece.start)
            found.append(
                MemorySegment(
                    start=segment.start, data=PiecedData(segment.size, pieces)
                )
            )
        return tuple(found)

    def skipped(self) -> tuple[Skipped, ...]:
        reasons = [*self._plan.skipped, *self._shared.skipped]
        if self._files is not None:
            reasons += self._files.skipped
        starts = [segment.start for segment in self._plan.segments]
        by_segment: dict[int, list[tuple[int, int]]] = {}
        for page in self._unreadable:
            by_segment.setdefault(bisect_right(starts, page[0]) - 1, []).append(page)
        for index, pages in by_segment.items():
            path = self._plan.segments[index].mapping.map.path
            reason = "the kernel cannot read it (guard, device or failed page)"
            reasons += [
                Skipped(start=start, end=end, path=path, reason=reason)
                for start, end in _merged(pages)
            ]
        return tuple(sorted(reasons, key=lambda skipped: skipped.start))

    @property
    def copied_bytes(self) -> int:
        """Bytes copied to the arena, and pending ones."""
        pending = sum(piece.size for piece in self.pending)
        return sum(place.size for place in self._placed()) + pending

    def trim(self) -> None:
        """Give the part of the arena back that the copy did not need."""
        self._arena.trim(sum(place.size for place in self._placed()))

    def close(self) -> None:
        """Close the files that were opened late, and give the memory back."""
        if self._files is not None:
            self._files.close()
        self._shared.close()
        self._backing.release()
        self._arena.close()

    def _placed(self) -> "list[_Place]":
        """Return where each segment lies; worked out after the thaw, if it can be."""
        if not self._places:
            self._places = _places(self._plan.segments, self._arena.size)
        return self._places

    def _copy_ordinary(self, ranges: list[int]) -> None:
        total = _size(ranges)
        address = self._arena.address
        if total <= _HOLD_GIL_BYTES:
            self._unreadable += self._copier.copy(ranges, address, hold_gil=True)
        elif total <= _TWO_READERS_BYTES:
            self._unreadable += self._copier.copy(ranges, address, hold_gil=False)
        else:
            first, second = _split(ranges, total // 2 & -(2 << 20))
            half = _size(first)
            helper = self._readers.submit(
                self._copier.copy, second, address + half, hold_gil=False
            )
            try:
                self._unreadable += self._copier.copy(first, address, hold_gil=False)
            finally:
                # The arena must not go while the other still writes to it.
                concurrent.futures.wait([helper])
            self._unreadable += helper.result()

    def _memory_pieces(
        self,
        segment: SegmentPlan,
        place: "_Place",
        unreadable: list[tuple[int, int]],
    ) -> list[Piece]:
        offset, first, backing = place.offset, segment.start, self._backing
        pieces: list[Piece] = []
        for start, end in _pairs(place.inside):
            if not unreadable:  # most often
                pieces.append(Piece(start - first, end - first, backing, offset))
                offset += end - start
                continue
            low, high = (
                bisect_left(unreadable, (start,)),
                bisect_left(unreadable, (end,)),
            )
            cut = [edge for hole in unreadable[low:high] for edge in hole]
            for low, high in gaps(cut, start, end):
                at = offset + low - start
                pieces.append(Piece(low - first, high - first, backing, at))
            offset += end - start
        return pieces


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a segment lies in the arena: *inside* at *offset*, *outside* is pending."""

    offset: int
    inside: list[int]
    outside: list[int]

    @property
    def size(self) -> int:
        return _size(self.inside)


def _places(segments: Sequence[SegmentPlan], room: int) -> list[_Place]:
    """Lay segments out in an arena of *room* bytes, the ordinary ones first."""
    found: dict[int, _Place] = {}
    offset = 0
    for index in sorted(
        range(len(segments)), key=lambda at: segments[at].via is not Via.MEMORY
    ):
        inside, outside = _split(segments[index].populated, room - offset)
        found[index] = _Place(offset, inside, outside)
        offset += found[index].size
    return [found[index] for index in range(len(segments))]


def _size(flat: list[int]) -> int:
    return sum(flat[1::2]) - sum(flat[0::2])


def _pairs(flat: list[int]) -> Iterable[tuple[int, int]]:
    return zip(flat[0::2], flat[1::2], strict=True)


def _split(flat: list[int], size: int) -> tuple[list[int], list[int]]:
    """Cut flat ranges in two: the first *size* bytes, and the rest."""
    if _size(flat) <= size:
        return flat, []
    for index, (start, end) in enumerate(_pairs(flat)):
        if end - start > size:
            head, tail = flat[: 2 * index], flat[2 * index + 2 :]
            if size:
                head += [start, start + size]
            return head, [start + size, end, *tail]
        size -= end - start
    return flat, []


def _pieces(index: int, flat: list[int]) -> Iterator[Pending]:
    """Bundle flat ranges of a segment to pieces of one buffer each."""
    bundle: list[int] = []
    size = 0
    for start, end in _pairs(flat):
        low = start
        while low < end:
            high = min(low + PIECE_BYTES - size, end)
            bundle += (low, high)
            size += high - low
            low = high
            if size == PIECE_BYTES:
                yield Pending(index, bundle, size)
                bundle, size = [], 0
    if size:
        yield Pending(index, bundle, size)


def _merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort ranges and join those that touch."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
