"""Every mapping of a process, with all that is known of it."""

import os

from sandlock_async.model import FileIdentity, VmArea
from sandlock_async.plan import Plan
from sandlock_async.procfs.maps import Mapping, parse_smaps
from sandlock_async.selection import Content, content_of
from sandlock_async.snapshot.mapped_files import Identities, key_of
from sandlock_async.snapshot.survey import Survey
from sandlock_async.snapshot.view import View

Flags = dict[Mapping, frozenset[str]]
"""``VmFlags`` by mapping."""


def settle_flags(pid: int, survey: Survey, view: View) -> Flags:
    """Return the flags of every mapping that was seen.

    smaps takes milliseconds, so it is not read under the freeze but before it; and
    again, after the thaw, if the mappings have changed. One that came and went has no
    flags.
    """
    known = {
        mapping: survey.vm_flags.get(mapping.map.start, frozenset())
        for mapping in survey.mappings
    }
    if all(mapping in known for mapping in view.mappings):
        return known
    try:
        with open(f"/proc/{pid}/smaps", "rb", buffering=0) as file:
            return known | parse_smaps(file.readall())
    except OSError:
        return known  # it has ended since


def describe_areas(
    view: View, files: Identities, flags: Flags, plan: Plan
) -> tuple[VmArea, ...]:
    """Return the full list of mappings.

    :param files: which files are mapped
    :param plan: which pages are the process's own
    """
    changed = {
        segment.start: tuple(segment.populated)
        for segment in plan.segments
        if content_of(segment.mapping) is Content.CHANGED
    }
    return tuple(
        VmArea(
            map=mapping.map,
            vm_flags=tuple(sorted(flags.get(mapping, ()))),
            device=os.makedev(*mapping.device),
            inode=mapping.inode,
            file=_identity(files, mapping),
            changed=changed.get(mapping.map.start, ()),
        )
        for mapping in view.mappings
    )


def _identity(files: Identities, mapping: Mapping) -> FileIdentity | None:
    stamp = files.get(key_of(mapping))
    return None if stamp is None else stamp.identity
