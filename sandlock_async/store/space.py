"""Room on a file system: one rule for whoever asks before it writes."""

import os
from pathlib import Path

from sandlock_async.errors import NoSpaceError


def free_bytes(place: int | Path) -> int:
    """Return what an ordinary user can still write to the file system of *place*.

    :param place: a descriptor, or the path, of something on it
    :raises OSError: as statvfs(2)
    """
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def require_space(destination: Path, *, needed: int, free: int) -> None:
    """Return if so many bytes have room.

    :raises NoSpaceError: if not
    """
    if needed > free:
        raise NoSpaceError(destination, needed=needed, free=free)
