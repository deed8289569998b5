"""Which mappings of a process an image wants. Pure.

Whatever a restore could not get from elsewhere: what was never written to is in the
file still (:func:`content_of`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from sandlock_async.model import MemoryMap, Skipped
from sandlock_async.procfs import maps

_STEP_OVER_BYTES = 1 << 20
"""Unwanted mappings of that size are cheaper to step over than to scan."""

VmFlags = Mapping[int, frozenset[str]]
"""``VmFlags`` of smaps, by start address."""

NO_FLAGS: frozenset[str] = frozenset()

_NOT_COPIED_BY_FORK = frozenset(("dc", "wf", "ht"))
"""MADV_DONTFORK, MADV_WIPEONFORK; huge pages, of which there may be none left."""


class Content(Enum):
    """How much of a mapping belongs to an image."""

    NOTHING = auto()
    CHANGED = auto()
    """All of it, if the process has made any page its own: else the file has it."""
    WHOLE = auto()


def content_of(mapping: maps.Mapping) -> Content:
    """Return how much of *mapping* could not be had from elsewhere."""
    return _content(mapping.map.perms, mapping.map.path)


@lru_cache(maxsize=1024)
def _content(perms: str, path: str | None) -> Content:
    # Wherever it lies; and all processes map the same libraries.
    this = MemoryMap(start=0, end=0, perms=perms, offset=0, path=path)
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


class Wanted(NamedTuple):
    """A mapping that may have content, and all that can be said of it beforehand.

    May be made under the freeze, so no dataclass.

    :ivar start: first address
    :ivar end: address behind the last byte
    :ivar via: how it is read, unless its file can be
    :ivar mapped_before: bytes of all mappings below it
    """

    mapping: maps.Mapping
    start: int
    end: int
    via: Via
    mapped_before: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What an image may want of a process, each in address order.

    :ivar whole: mappings that are wanted whole
    :ivar changed: those that are wanted if the process has changed a page
    :ivar shared: those of the former that are shared memory
    :ivar spans: address ranges to scan, so that every mapping lies in one; the kernel
        steps over what is not mapped by itself
    :ivar ends: where each of them ends, by its start address
    :ivar left_out: what is not wanted, though it has content, with reasons
    """

    whole: tuple[Wanted, ...]
    changed: tuple[Wanted, ...]
    shared: tuple[Wanted, ...]
    spans: tuple[tuple[int, int], ...]
    ends: dict[int, int]
    left_out: tuple[Skipped, ...]


def select(
    mappings: Sequence[maps.Mapping],
    vm_flags: VmFlags,
    *,
    exclude_dontdump: bool = False,
) -> Selection:
    """Return what an image may want of all *mappings* of a process.

    :param vm_flags: ``VmFlags`` by start address; ``dd`` is MADV_DONTDUMP
    :param exclude_dontdump: leave out what the program wants in no core dump
    """
    whole: list[Wanted] = []
    changed: list[Wanted] = []
    left_out: list[Skipped] = []
    mapped_bytes = 0
    for mapping in mappings:
        this = mapping.map
        mapped_before, mapped_bytes = mapped_bytes, mapped_bytes + this.end - this.start
        content = content_of(mapping)
        if content is Content.NOTHING:
            continue
        if exclude_dontdump and "dd" in vm_flags.get(this.start, NO_FLAGS):
            reason = "MADV_DONTDUMP, left out as asked"
            left_out.append(
                Skipped(start=this.start, end=this.end, path=this.path, reason=reason)
            )
            continue
        via = Via.MEMORY if this.readable else Via.FORCED
        (whole if content is Content.WHOLE else changed).append(
            Wanted(mapping, this.start, this.end, via, mapped_before)
        )
    return _selection(whole, changed, left_out)


def is_copied_by_fork(mapping: maps.Mapping, vm_flags: VmFlags) -> bool:
    """Whether a copy of the process made by fork(2) has a mapping, too."""
    flags = vm_flags.get(mapping.map.start, NO_FLAGS)
    return mapping.map.private and flags.isdisjoint(_NOT_COPIED_BY_FORK)


def split_by_fork(wanted: Selection, vm_flags: VmFlags) -> tuple[Selection, Selection]:
    """Return what a copy of the process made by fork(2) has of it too, and the rest."""

    def is_copied(this: Wanted) -> bool:
        return is_copied_by_fork(this.mapping, vm_flags)

    copied = [this for this in wanted.whole if is_copied(this)]
    others = [this for this in wanted.whole if not is_copied(this)]
    changed = [this for this in wanted.changed if is_copied(this)]
    other_changed = [this for this in wanted.changed if not is_copied(this)]
    return (
        _selection(copied, changed, wanted.left_out),
        _selection(others, other_changed, ()),
    )


def _selection(
    whole: Sequence[Wanted], changed: Sequence[Wanted], left_out: Iterable[Skipped]
) -> Selection:
    spans: list[tuple[int, int]] = []
    ends: dict[int, int] = {}
    mapped_bytes = 0
    for this in sorted((*whole, *changed), key=_start_of):
        ends[this.start] = this.end
        if spans and this.mapped_before - mapped_bytes < _STEP_OVER_BYTES:
            spans[-1] = (spans[-1][0], this.end)
        else:
            spans.append((this.start, this.end))
        mapped_bytes = this.mapped_before + this.end - this.start
    return Selection(
        whole=tuple(whole),
        changed=tuple(changed),
        shared=tuple(this for this in whole if not this.mapping.map.private),
        spans=tuple(spans),
        ends=ends,
        left_out=tuple(left_out),
    )


_start_of = attrgetter("start")
