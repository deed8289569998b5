"""Every mapping of a process, with all that is known of it."""

import os

from sandlock_async.model import VmArea
from sandlock_async.plan import Content, Plan, content_of
from sandlock_async.snapshot.mapped_files import Identities, key_of
from sandlock_async.snapshot.view import View


def describe_areas(view: View, files: Identities, plan: Plan) -> tuple[VmArea, ...]:
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
            vm_flags=tuple(sorted(view.vm_flags.get(mapping.map.start, ()))),
            device=os.makedev(*mapping.device),
            inode=mapping.inode,
            file=files.get(key_of(mapping)),
            changed=changed.get(mapping.map.start, ()),
        )
        for mapping in view.mappings
    )
