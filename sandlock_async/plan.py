"""Which bytes of which mappings to copy, and how. Pure: facts in, ranges out.

Of each mapping that is wanted (:mod:`sandlock_async.selection`), page by page, where
each of its bytes is to be had::

      populated      absent, anonymous     absent, of a file    absent, userfaultfd
    ==============  --------------------  ~~~~~~~~~~~~~~~~~~~~  ????????????????????
    copied while    a hole: it is zero,   read from the file    skipped, with the
    frozen          nobody touched it     after the thaw        reason

Nothing absent is ever touched under a freeze: the fault could wait for the very
program that stands still. Of shared memory the page table of one process tells only
half: where its file can be opened, that is asked for its data instead.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import ClassVar, NamedTuple

from sandlock_async.model import MemoryMap, Skipped
from sandlock_async.procfs import maps
from sandlock_async.selection import NO_FLAGS, Selection, Via, VmFlags, Wanted

_ONLY_IN_MEMORY = ("/memfd:", "/dev/zero", "/SYSV", "/anon_hugepage", "[", "anon")
"""Paths of shared memory that no file of a disk is behind."""


class SegmentPlan(NamedTuple):
    """What to do for one mapping. Ranges are flat: ``[start, end, start, end, …]``.

    Made under the freeze, so no dataclass: a frozen one takes five times as long.

    :ivar populated: address ranges to copy while frozen
    :ivar from_file: address ranges to read from the mapped file after the thaw
    """

    mapping: maps.Mapping
    populated: list[int]
    from_file: list[int]
    via: Via

    @property
    def start(self) -> int:
        """First address."""
        return self.mapping.map.start

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.mapping.map.size

    @property
    def populated_bytes(self) -> int:
        """Bytes to copy while frozen."""
        return sum(self.populated[1::2]) - sum(self.populated[0::2])

    @property
    def file_bytes(self) -> int:
        """Bytes to read from the mapped file after the thaw."""
        return sum(self.from_file[1::2]) - sum(self.from_file[0::2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to copy of a process.

    :ivar segments: one for each captured mapping, in address order
    :ivar skipped: ranges that cannot be had, with reasons
    """

    segments: tuple[SegmentPlan, ...]
    skipped: tuple[Skipped, ...]

    @property
    def populated_bytes(self) -> int:
        """Bytes to copy while frozen."""
        return sum(segment.populated_bytes for segment in self.segments)

    @property
    def image_bytes(self) -> int:
        """Bytes of all segments; less on the disk, where pages of zeros are holes."""
        return self.populated_bytes + sum(this.file_bytes for this in self.segments)

    @property
    def memory_bytes(self) -> int:
        """Length of all segments together, holes included."""
        return sum(segment.size for segment in self.segments)


Ranges = tuple[list[int], list[int], list[bool], list[tuple[int, int]]]


class Pages:
    """Pages that are present or swapped out, as ascending ranges.

    Plain lists: a fragmented process has a hundred thousand of them.

    :param ranges: first addresses; addresses behind the last byte; whether the pages
        are the process's own, not a file's; and guards, where nothing can be
    :ivar safe: by start address, what can be read, as flat ranges, of mappings where
        a fault would go to a userfaultfd
    """

    def __init__(
        self,
        ranges: Ranges,
        safe: Mapping[int, list[int]] | None = None,
    ) -> None:
        self.ranges: Ranges = ranges
        self.safe: Mapping[int, list[int]] = safe or {}
        self._starts, self._ends, self._owned, self._guards = ranges

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pages):
            return NotImplemented
        return self.ranges == other.ranges and self.safe == other.safe

    __hash__: ClassVar[None]  # type: ignore[assignment]

    @cached_property
    def _own(self) -> tuple[list[int], list[int]]:
        own = [at for at, is_own in enumerate(self._owned) if is_own]
        return [self._starts[at] for at in own], [self._ends[at] for at in own]

    def populated(self, start: int, end: int) -> list[int]:
        """Return the flat ranges of ``[start, end)``, adjacent ones joined."""
        low = bisect_right(self._ends, start)
        high = bisect_left(self._starts, end, low)
        if high - low == 1:  # most often
            return [max(self._starts[low], start), min(self._ends[low], end)]
        return _joined(self._starts[low:high], self._ends[low:high], start, end)

    def owned(self, start: int, end: int) -> list[int]:
        """Return those of them that are the process's own."""
        starts, ends = self._own
        low = bisect_right(ends, start)
        if low == len(ends) or starts[low] >= end:
            return []  # most often
        high = bisect_left(starts, end, low)
        return _joined(starts[low:high], ends[low:high], start, end)

    def guards(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of ``[start, end)`` where nothing can be."""
        if not self._guards:
            return []  # most often
        return [
            (max(low, start), min(high, end))
            for low, high in self._guards
            if low < end and high > start
        ]

    def changed(self, candidates: Sequence[Wanted]) -> list[Wanted]:
        """Return those of ascending *candidates* in which there is an own page."""
        starts, ends = self._own
        if len(starts) > len(candidates):
            return [this for this in candidates if self.owned(this.start, this.end)]
        found: list[Wanted] = []
        index = 0
        for start, end in zip(starts, ends, strict=True):
            index = bisect_right(candidates, start, index, key=_end_of)
            while index < len(candidates) and candidates[index].start < end:
                found.append(candidates[index])
                index += 1
        return found


_end_of = attrgetter("end")


def _joined(starts: list[int], ends: list[int], start: int, end: int) -> list[int]:
    if not starts:
        return []
    starts[0], ends[-1] = max(starts[0], start), min(ends[-1], end)
    if any(low == high for low, high in zip(starts[1:], ends, strict=False)):
        kept = [at for at in range(1, len(starts)) if starts[at] != ends[at - 1]]
        ends = [*(ends[at - 1] for at in kept), ends[-1]]
        starts = [starts[0], *(starts[at] for at in kept)]
    flat = [0] * (2 * len(starts))
    flat[0::2], flat[1::2] = starts, ends
    return flat


class Planner:
    """Plans, and plans again under the freeze: what has not changed, it need not."""

    def __init__(self) -> None:
        self._inputs: tuple[object, ...] = ()
        self._plan = Plan(segments=(), skipped=())

    def plan(
        self,
        wanted: Selection,
        vm_flags: VmFlags,
        pages: Pages,
        shared: Mapping[int, list[int]],
    ) -> Plan:
        """Return :func:`plan_segments` of these; the very same object if they equal."""
        inputs = (id(wanted), id(vm_flags), pages, shared)
        if inputs != self._inputs:
            self._plan = plan_segments(wanted, vm_flags, pages, shared)
            self._inputs = inputs
        return self._plan


def plan_segments(
    wanted: Selection,
    vm_flags: VmFlags,
    pages: Pages,
    shared: Mapping[int, list[int]] | None = None,
) -> Plan:
    """Decide for every mapping that is wanted.

    :param vm_flags: ``VmFlags`` by start address; ``um`` is userfaultfd-missing
    :param shared: the data of shared memory whose file is open, as address ranges, by
        start address
    """
    segments: list[SegmentPlan] = []
    skipped = list(wanted.left_out)
    for this in wanted.whole:
        mapping, via = this.mapping, this.via
        if shared and this.start in shared:
            there, via = shared[this.start], Via.SHARED
        elif "um" in vm_flags.get(this.start, NO_FLAGS):
            there = pages.safe[this.start]
        else:
            there = pages.populated(this.start, this.end)
        from_file: list[int] = []
        absent = _absent(there, this, pages, skipped)
        if absent and via is not Via.SHARED:
            reason = _why_absent(mapping.map, vm_flags)
            if reason is not None:
                skipped += _skip(mapping.map, absent, reason)
            elif mapping.file_backed:
                from_file = [edge for gap in absent for edge in gap]
        segments.append(SegmentPlan(mapping, there, from_file, via))
    for this in pages.changed(wanted.changed):
        there = pages.owned(this.start, this.end)
        absent = _absent(there, this, pages, skipped)
        from_file = [edge for gap in absent for edge in gap]
        segments.append(SegmentPlan(this.mapping, there, from_file, this.via))
    segments.sort(key=_start_of)
    return Plan(segments=tuple(segments), skipped=tuple(skipped))


_start_of = attrgetter("mapping.map.start")


def _absent(
    there: list[int], this: Wanted, pages: Pages, skipped: list[Skipped]
) -> list[tuple[int, int]]:
    """Return what is not *there*, less guards: those are *skipped*."""
    absent = list(gaps(there, this.start, this.end))
    guards = pages.guards(this.start, this.end)
    if not guards:
        return absent
    skipped += _skip(this.mapping.map, guards, "guard pages (MADV_GUARD_INSTALL)")
    flat = [edge for guard in guards for edge in guard]
    return [part for low, high in absent for part in _cut(flat, low, high)]


def _cut(flat: list[int], low: int, high: int) -> Iterator[tuple[int, int]]:
    inside = [
        edge
        for start, end in zip(flat[0::2], flat[1::2], strict=True)
        if start < high and end > low
        for edge in (max(start, low), min(end, high))
    ]
    return gaps(inside, low, high)


def _skip(
    this: MemoryMap, ranges: Iterable[tuple[int, int]], reason: str
) -> list[Skipped]:
    return [
        Skipped(start=start, end=end, path=this.path, reason=reason)
        for start, end in ranges
    ]


def _why_absent(this: MemoryMap, vm_flags: VmFlags) -> str | None:
    """Return why absent pages cannot be had, None if they can."""
    if "um" in vm_flags.get(this.start, NO_FLAGS):
        return "pages that a userfaultfd handler has not supplied yet"
    if not this.private and (this.path or "").startswith(_ONLY_IN_MEMORY):
        return "shared memory that this process has not touched, and cannot be opened"
    return None


def gaps(ranges: list[int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield what flat, ascending *ranges* leave of ``[start, end)``."""
    position = start
    for low, high in zip(ranges[0::2], ranges[1::2], strict=True):
        if low > position:
            yield position, low
        position = high
    if position < end:
        yield position, end
