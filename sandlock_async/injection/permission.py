"""Whether the seccomp filters over a process let it make a clone.

A foreign filter may kill the program for a clone(2), and cannot be asked beforehand.
sandlock's passes it on to its supervisor, which allows it or says EAGAIN.
"""

from sandlock_async.kernel import files
from sandlock_async.procfs.stat import parse_stat
from sandlock_async.procfs.status import parse_status

_FILTERED = "2"  # SECCOMP_MODE_FILTER


def is_unfiltered(status: bytes) -> bool:
    """Whether a process is under no filter, by its ``/proc/PID/status``."""
    return b"\nSeccomp:\t0\n" in status


def filters_let_clone(pid: int, status: bytes) -> bool:
    """Whether the filters over a process are known to do no harm to a clone.

    :param status: its ``/proc/PID/status``
    :raises OSError: ``ENOENT`` or ``ESRCH`` if it is gone
    """
    if is_unfiltered(status):
        return True
    fields = parse_status(status)
    # One filter alone: whoever is in a sandbox may have added another.
    return (
        fields.get("Seccomp") == _FILTERED
        and fields.get("Seccomp_filters") == "1"
        and _is_supervised_by_sandlock(pid)
    )


def _is_supervised_by_sandlock(pid: int) -> bool:
    """Whether the nearest unfiltered ancestor has loaded sandlock."""
    while pid > 1:
        pid = parse_stat(files.read_record(f"/proc/{pid}/stat")).parent
        if not pid:
            return False  # of another pid namespace
        try:
            if is_unfiltered(files.read_record(f"/proc/{pid}/status")):
                return b"sandlock" in files.read_file(f"/proc/{pid}/maps")
        except PermissionError:
            return False
    return False
