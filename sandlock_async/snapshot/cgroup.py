"""How much memory a process's cgroup lets it have, cgroups(7)."""

import os

from sandlock_async.kernel import files

_ROOT = "/sys/fs/cgroup"


def memory_headroom(pid: int) -> int | None:
    """Return the bytes that are left in the tightest of its cgroups; None: no limit.

    Of version 2 (memory.max, memory.current); what cannot be read does not limit.
    """
    try:
        lines = files.read_file(f"/proc/{pid}/cgroup").splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith(b"0::")), b"")
    left: int | None = None
    folder = os.fsdecode(path).rstrip("/")
    while folder:
        here = _left(_ROOT + folder)
        if here is not None:
            left = here if left is None else min(left, here)
        folder = folder.rpartition("/")[0]
    return left


def _left(folder: str) -> int | None:
    try:
        limit = files.read_file(f"{folder}/memory.max").strip()
        if limit == b"max":
            return None
        return max(int(limit) - int(files.read_file(f"{folder}/memory.current")), 0)
    except (OSError, ValueError):
        return None
