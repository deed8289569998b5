"""Every mapping of a process, with all that is known of it."""

import os
from collections.abc import Sequence
from functools import lru_cache

from sandlock_async.model import VmArea
from sandlock_async.plan import Plan
from sandlock_async.procfs.maps import parse_smaps
from sandlock_async.selection import NO_FLAGS, Content, content_of
from sandlock_async.snapshot.mapped_files import Identities, key_of
from sandlock_async.snapshot.survey import Survey
from sandlock_async.snapshot.view import View

Flags = Sequence[frozenset[str]]
"""``VmFlags`` of each mapping that was seen, in their order."""


def settle_flags(pid: int, survey: Survey, view: View) -> Flags:
    """Return the flags of every mapping that was seen.

    smaps takes milliseconds, so it is not read under the freeze but before it; and
    again, after the thaw, if the mappings have changed. One that came and went has no
    flags.
    """
    before = survey.vm_flags
    if view.mappings is survey.mappings:  # nothing has changed
        return [before.get(this.map.start, NO_FLAGS) for this in view.mappings]
    known = {this: before.get(this.map.start, NO_FLAGS) for this in survey.mappings}
    if any(this not in known for this in view.mappings):
        try:
            with open(f"/proc/{pid}/smaps", "rb", buffering=0) as file:
                known |= parse_smaps(file.readall())
        except OSError:
            pass  # it has ended since
    return [known.get(this, NO_FLAGS) for this in view.mappings]


def describe_areas(
    view: View, files: Identities, flags: Flags, plan: Plan
) -> tuple[VmArea, ...]:
    """Return the full list of mappings.

    :param files: which files are mapped
    :param flags: of each mapping
    :param plan: which pages are the process's own
    """
    changed = {
        segment.start: tuple(segment.populated)
        for segment in plan.segments
        if content_of(segment.mapping) is Content.CHANGED
    }
    areas: list[VmArea] = []
    for mapping, these in zip(view.mappings, flags, strict=True):
        stamp = files.get(key_of(mapping))
        areas.append(
            VmArea(
                map=mapping.map,
                vm_flags=_in_order(these),
                device=os.makedev(*mapping.device),
                inode=mapping.inode,
                file=None if stamp is None else stamp.identity,
                changed=changed.get(mapping.map.start, ()),
            )
        )
    return tuple(areas)


@lru_cache(maxsize=256)
def _in_order(flags: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(flags))
