"""Which bytes of which mappings to copy, and how. Pure: facts in, ranges out.

First whether a mapping has anything that a restore could not get from elsewhere
(:func:`content_of`); then, page by page, where each of its bytes is to be had::

      populated      absent, anonymous     absent, of a file    absent, userfaultfd
    ==============  --------------------  ~~~~~~~~~~~~~~~~~~~~  ????????????????????
    copied while    a hole: it is zero,   read from the file    skipped, with the
    frozen          nobody touched it     after the thaw        reason

Nothing absent is ever touched under a freeze: the fault could wait for the very
program that stands still. Of shared memory the page table of one process tells only
half: where its file can be opened, that is asked for its data instead.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from sandlock_async.model import MemoryMap, Skipped
from sandlock_async.procfs import maps

_STEP_OVER_BYTES = 1 << 20
"""Unwanted mappings of that size are cheaper to step over than to scan."""

VmFlags = Mapping[int, frozenset[str]]
_NO_FLAGS: frozenset[str] = frozenset()


class Content(Enum):
    """How much of a mapping belongs to an image."""

    NOTHING = auto()
    CHANGED = auto()
    """All of it, if the process has made any page its own: else the file has it."""
    WHOLE = auto()


def content_of(mapping: maps.Mapping) -> Content:
    """Return how much of *mapping* could not be had from elsewhere."""
    this = mapping.map
    if this.is_special:
        return Content.NOTHING
    if not this.has_file or this.is_unreopenable:
        return Content.WHOLE
    if not this.private:
        return Content.NOTHING
    return Content.WHOLE if this.writable else Content.CHANGED


class Via(Enum):
    """How the populated bytes of a segment are read while frozen."""

    MEMORY = auto()
    """``process_vm_readv(2)``."""
    FORCED = auto()
    """``/proc/PID/mem``: the program itself may not read it."""
    SHARED = auto()
    """Its file, which only exists in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A mapping that may have content, and all that can be said of it beforehand.

    :ivar start: first address
    :ivar end: address behind the last byte
    :ivar changed_only: whether it counts only if the process has changed a page
    :ivar via: how it is read, unless its file can be
    """

    mapping: maps.Mapping
    start: int
    end: int
    changed_only: bool
    via: Via


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What an image may want of a process.

    :ivar mappings: the wanted ones, in address order
    :ivar spans: address ranges to scan, so that each of them lies in one; the kernel
        steps over what is not mapped by itself
    :ivar ends: where each of them ends, by its start address
    """

    mappings: tuple[Wanted, ...]
    spans: tuple[tuple[int, int], ...]
    ends: dict[int, int]


def select(mappings: Sequence[maps.Mapping]) -> Selection:
    """Return what an image may want of all *mappings* of a process."""
    found: list[Wanted] = []
    spans: list[tuple[int, int]] = []
    unwanted_bytes = _STEP_OVER_BYTES
    for mapping in mappings:
        this = mapping.map
        content = content_of(mapping)
        if content is Content.NOTHING:
            unwanted_bytes += this.size
            continue
        if unwanted_bytes >= _STEP_OVER_BYTES:
            spans.append((this.start, this.end))
        else:
            spans[-1] = (spans[-1][0], this.end)
        unwanted_bytes = 0
        found.append(
            Wanted(
                mapping=mapping,
                start=this.start,
                end=this.end,
                changed_only=content is Content.CHANGED,
                via=Via.MEMORY if this.readable else Via.FORCED,
            )
        )
    ends = {this.start: this.end for this in found}
    return Selection(mappings=tuple(found), spans=tuple(spans), ends=ends)


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


class Pages:
    """Pages that are present or swapped out, as ascending ranges.

    Plain lists: a fragmented process has a hundred thousand of them.

    :param ranges: first addresses; addresses behind the last byte; and whether the
        pages are the process's own, not a file's
    :ivar safe: by start address, what can be read, as flat ranges, of mappings where
        a fault would go to a userfaultfd
    """

    def __init__(
        self,
        ranges: tuple[list[int], list[int], list[bool]],
        safe: Mapping[int, list[int]] | None = None,
    ) -> None:
        self.safe = safe or {}
        self._starts, self._ends, owned = ranges
        own = [at for at, is_own in enumerate(owned) if is_own]
        self._own_starts = [self._starts[at] for at in own]
        self._own_ends = [self._ends[at] for at in own]

    def populated(self, start: int, end: int) -> list[int]:
        """Return the flat ranges of ``[start, end)``, adjacent ones joined."""
        low = bisect_right(self._ends, start)
        high = bisect_left(self._starts, end, low)
        if high - low == 1:  # most often
            return [max(self._starts[low], start), min(self._ends[low], end)]
        return _joined(self._starts[low:high], self._ends[low:high], start, end)

    def owned(self, start: int, end: int) -> list[int]:
        """Return those of them that are the process's own."""
        starts, ends = self._own_starts, self._own_ends
        low = bisect_right(ends, start)
        if low == len(ends) or starts[low] >= end:
            return []  # most often
        high = bisect_left(starts, end, low)
        return _joined(starts[low:high], ends[low:high], start, end)


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


def plan_segments(
    wanted: Sequence[Wanted],
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
    skipped: list[Skipped] = []
    for this in wanted:
        mapping, via = this.mapping, this.via
        from_file: list[int] = []
        if this.changed_only:
            there = pages.owned(this.start, this.end)
            if not there:
                continue
        elif "um" in vm_flags.get(this.start, _NO_FLAGS):
            there = pages.safe[this.start]
        elif shared is not None and this.start in shared:
            there, via = shared[this.start], Via.SHARED
        else:
            there = pages.populated(this.start, this.end)
        reason = _why_absent(mapping.map, vm_flags) if via is not Via.SHARED else None
        if reason is not None:
            skipped += [
                Skipped(start=start, end=end, path=mapping.map.path, reason=reason)
                for start, end in gaps(there, this.start, this.end)
            ]
        elif mapping.file_backed and via is not Via.SHARED:
            for gap in gaps(there, this.start, this.end):
                from_file += gap
        segments.append(
            SegmentPlan(mapping=mapping, populated=there, from_file=from_file, via=via)
        )
    return Plan(segments=tuple(segments), skipped=tuple(skipped))


def _why_absent(this: MemoryMap, vm_flags: VmFlags) -> str | None:
    """Return why absent pages cannot be had, None if they can."""
    if "um" in vm_flags.get(this.start, _NO_FLAGS):
        return "pages that a userfaultfd handler has not supplied yet"
    if not this.private:
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
