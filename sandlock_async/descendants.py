"""The processes that a process has started, and those that they have."""

import os
import threading
from collections.abc import Callable

from sandlock_async.kernel import files
from sandlock_async.procfs.stat import parse_stat


def find_descendants(pid: int) -> list[int]:
    """Return the descendants of a process, each after its parent.

    Those that run may start another one meanwhile; those that stand still start none.
    A child whose parent has ended belongs to another process now.

    :raises OSError: ``ENOENT`` or ``ESRCH`` if the process is gone
    """
    children_of = _listed_children if _has_lists() else _make_lookup()
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop(0)
        try:
            children = children_of(parent)
        except OSError as error:
            if parent == pid or not files.is_gone(error):
                raise
            continue  # ended since it was found
        found += children
        waiting += children
    return found


def _has_lists() -> bool:
    # Only with CONFIG_PROC_CHILDREN, proc_pid_task_tid_children(5).
    return os.path.exists(f"/proc/self/task/{threading.get_native_id()}/children")


def _listed_children(pid: int) -> list[int]:
    found: list[int] = []
    for tid in files.list_numbers(f"/proc/{pid}/task"):
        try:
            content = files.read_file(f"/proc/{pid}/task/{tid}/children")
        except OSError as error:
            if not files.is_gone(error):
                raise
            continue  # a thread that has ended
        found += [int(number) for number in content.split()]
    return found


def _make_lookup() -> Callable[[int], list[int]]:
    children: dict[int, list[int]] = {}
    for pid in files.list_numbers("/proc"):
        try:
            stat = parse_stat(files.read_record(f"/proc/{pid}/stat"))
        except OSError as error:
            if not files.is_gone(error):
                raise
            continue
        children.setdefault(stat.parent, []).append(pid)
    return lambda parent: children.get(parent, [])
