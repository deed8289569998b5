"""Which bytes of which mappings to copy, and how. Pure: facts in, ranges out.

A mapping, page by page, and what becomes of each page::

      populated      absent, anonymous     absent, of a file    absent, userfaultfd
    ==============  --------------------  ~~~~~~~~~~~~~~~~~~~~  ????????????????????
    copied while    a hole: it is zero,   read from the file    skipped, with the
    frozen          nobody touched it     after the thaw        reason

Nothing absent is ever touched under a freeze: the fault could wait for the very
program that stands still.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sandlock_async.model import Skipped
from sandlock_async.procfs import maps


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentPlan:
    """What to do for one mapping. Ranges are flat: ``[start, end, start, end, …]``.

    :ivar populated: address ranges to copy while frozen
    :ivar from_file: address ranges to read from the mapped file after the thaw
    :ivar forced: whether the program itself may not read it, so that only
        ``/proc/PID/mem`` can
    """

    mapping: maps.Mapping
    populated: list[int] = field(repr=False)
    from_file: list[int]
    forced: bool

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


def plan_segments(
    mappings: Sequence[maps.Mapping],
    vm_flags: Mapping[int, frozenset[str]],
    *,
    populated: Callable[[int, int], list[int]],
) -> Plan:
    """Decide for every mapping that is to be captured.

    :param vm_flags: ``VmFlags`` by start address; ``um`` is userfaultfd-missing
    :param populated: the present or swapped ranges of an address range, flat
    """
    segments: list[SegmentPlan] = []
    skipped: list[Skipped] = []
    for mapping in mappings:
        this = mapping.map
        there = populated(this.start, this.end)
        from_file: list[int] = []
        if "um" in vm_flags.get(this.start, frozenset()):
            skipped += [
                Skipped(
                    start=start,
                    end=end,
                    path=this.path,
                    reason="pages that a userfaultfd handler has not supplied yet",
                )
                for start, end in gaps(there, this.start, this.end)
            ]
        elif mapping.file_backed:
            for gap in gaps(there, this.start, this.end):
                from_file += gap
        segments.append(
            SegmentPlan(
                mapping=mapping,
                populated=there,
                from_file=from_file,
                forced=not this.readable,
            )
        )
    return Plan(segments=tuple(segments), skipped=tuple(skipped))


def gaps(ranges: list[int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield what flat, ascending *ranges* leave of ``[start, end)``."""
    position = start
    for low, high in zip(ranges[0::2], ranges[1::2], strict=True):
        if low > position:
            yield position, low
        position = high
    if position < end:
        yield position, end
