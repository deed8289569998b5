"""Room on a file system: one rule for whoever asks before it writes."""

import os
from dataclasses import dataclass
from pathlib import Path

from sandlock_async.errors import NoSpaceError

_USUAL_BLOCK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What an ordinary user can still put on a file system.

    :ivar bytes: None if it does not tell: ramfs, and a tmpfs without a limit
    :ivar inodes: files and folders; None if it has no table of them
    :ivar block: what a file takes is a multiple of that
    """

    bytes: int | None
    inodes: int | None
    block: int


def find_room(place: int | Path) -> Room:
    """Return what is left on the file system of *place*.

    :param place: a descriptor, or the path, of something on it
    :raises OSError: as statvfs(2)
    """
    found = os.statvfs(place)
    return Room(
        bytes=found.f_bavail * found.f_frsize if found.f_blocks else None,
        inodes=found.f_favail if found.f_files else None,
        block=found.f_frsize,
    )


def require_space(
    destination: Path, *, needed: int, room: Room, inodes: int = 0
) -> None:
    """Return if so many bytes, in so many files and folders, have room.

    :raises NoSpaceError: if not
    """
    if room.block > _USUAL_BLOCK:  # of which memory is made up
        needed += inodes * room.block
    if room.bytes is not None and needed > room.bytes:
        raise NoSpaceError(destination, needed=needed, free=room.bytes)
    if room.inodes is not None and inodes > room.inodes:
        raise NoSpaceError(destination, needed=inodes, free=room.inodes, unit="inodes")
