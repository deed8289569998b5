"""Which pages of a process's mappings there are."""

from sandlock_async.kernel.pagemap import Pagemap
from sandlock_async.plan import Pages
from sandlock_async.selection import Selection, VmFlags


def scan_pages(
    pid: int, wanted: Selection, vm_flags: VmFlags, *, hold_gil: bool
) -> Pages:
    """Return the pages of mappings that are present or swapped out.

    :param hold_gil: keep the GIL: the process stands still, and is not large
    :param vm_flags: their flags, which say where a userfaultfd has to be minded
    :raises OSError: if ``/proc/PID/pagemap`` cannot be read
    """
    with Pagemap(pid) as pagemap:
        ranges = pagemap.scan(wanted.spans, hold_gil=hold_gil)
        safe = {
            start: Pages(
                pagemap.scan_without_markers(start, wanted.ends[start])
            ).populated(start, wanted.ends[start])
            for start, flags in vm_flags.items()
            if "um" in flags and start in wanted.ends
        }
        return Pages(ranges, safe)
