"""Whether the seccomp filters over a process let it make a clone.

A foreign filter may kill the program for a clone(2), and cannot be asked beforehand.
sandlock's passes it on to its supervisor, which allows it or says EAGAIN.
"""

import time

from sandlock_async.kernel import files
from sandlock_async.procfs.stat import parse_stat
from sandlock_async.procfs.status import parse_status

_FILTERED = "2"  # SECCOMP_MODE_FILTER
_LISTENER = b"anon_inode:seccomp notify"

_REMEMBERED_S = 1.0

_Process = tuple[int, int]
"""A pid, and the start time: together, an identity."""

_SUPERVISED: dict[_Process, float] = {}
"""Children whose first filter is known to be sandlock's, and until when.

They keep that filter as long as they live. They are counted anew all the same: a
listener that outlives its child could stand for a child of another kind.
"""


def is_unfiltered(status: bytes) -> bool:
    """Whether a process is under no filter, by its ``/proc/PID/status``."""
    return b"\nSeccomp:\t0\n" in status


def filters_let_clone(pid: int, status: bytes, *, sandboxed: bool) -> bool:
    """Whether the filters over a process are known to do no harm to a clone.

    :param status: its ``/proc/PID/status``
    :param sandboxed: whether it is known to be in a sandbox of sandlock
    :raises OSError: ``ENOENT`` or ``ESRCH`` if it is gone
    """
    if is_unfiltered(status):
        return True
    fields = parse_status(status)
    # One filter alone: whoever is in a sandbox may have added another.
    return (
        fields.get("Seccomp") == _FILTERED
        and fields.get("Seccomp_filters") == "1"
        and (sandboxed or _is_supervised_by_sandlock(pid))
    )


def _is_supervised_by_sandlock(pid: int) -> bool:
    """Whether the filter was put on by the nearest unfiltered ancestor, with sandlock.

    It may have other children, with filters of another kind. A filter of sandlock asks
    its supervisor by a descriptor of its own: if there are as many of these as there
    are such children, none is of another kind.
    """
    while pid > 1:
        stat = parse_stat(files.read_record(f"/proc/{pid}/stat"))
        if _SUPERVISED.get((pid, stat.start_time), 0) > time.monotonic():
            return True
        pid = stat.parent
        if not pid:
            return False  # of another pid namespace
        try:
            if is_unfiltered(files.read_record(f"/proc/{pid}/status")):
                return b"sandlock" in files.read_file(
                    f"/proc/{pid}/maps"
                ) and _supervises_all(pid)
        except PermissionError:
            return False
    return False


def _supervises_all(pid: int) -> bool:
    """Whether a process has a listener for each child that is under a filter."""
    now = time.monotonic()
    children = _filtered_children(pid)
    if len(children) > _listeners(pid):
        return False
    # All of them at once: of a hundred sandboxes each capture would count them all.
    for child, until in tuple(_SUPERVISED.items()):
        if until <= now:
            _SUPERVISED.pop(child, None)
    _SUPERVISED.update(dict.fromkeys(children, now + _REMEMBERED_S))
    return True


def _filtered_children(pid: int) -> list[_Process]:
    found: list[_Process] = []
    for tid in files.list_numbers(f"/proc/{pid}/task"):
        for child in map(
            int, (_read(f"/proc/{pid}/task/{tid}/children") or b"").split()
        ):
            # In this order: what is filtered has that identity, or is gone.
            stat, status = _read(f"/proc/{child}/stat"), _read(f"/proc/{child}/status")
            if stat is not None and status is not None and not is_unfiltered(status):
                found.append((child, parse_stat(stat).start_time))
    return found


def _listeners(pid: int) -> int:
    found = 0
    for fd in files.list_numbers(f"/proc/{pid}/fd"):
        try:
            found += files.read_link(f"/proc/{pid}/fd/{fd}") == _LISTENER
        except FileNotFoundError:
            continue  # closed since; our own of the listing, for one
    return found


def _read(path: str) -> bytes | None:
    try:
        return files.read_file(path)
    except OSError as error:
        if not files.is_gone(error):
            raise
        return None
