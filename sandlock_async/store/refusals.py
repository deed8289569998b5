"""What the file system, or what is at the destination, forbids: with what helps."""

import errno
from contextlib import AbstractContextManager
from pathlib import Path

from sandlock_async.errors import CURES, NoSpaceError, StoreError, translated_by
from sandlock_async.store.space import Room, find_room

_NO_RIGHT = "use a folder that you may read and write"
_HELP = CURES | {
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: "choose a file system that is not mounted read-only",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "every parent of the checkpoint must be a folder",
    errno.ELOOP: "remove the symbolic links that lead to themselves",
    errno.EBUSY: "choose a directory on which nothing is mounted",
}


def translated(destination: Path) -> AbstractContextManager[None]:
    """Turn every :exc:`OSError` inside to a :exc:`StoreError`."""
    return translated_by(lambda error: store_error(error, destination))


def store_error(error: OSError, destination: Path, needed: int = 0) -> StoreError:
    """Return what an error of the file system means; looks at what is free.

    :param needed: bytes of the whole image, as far as known
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        room = _room_above(destination)
        if room is not None and room.inodes == 0:
            return NoSpaceError(destination, needed=0, free=0, unit="inodes")
        free = (room and room.bytes) or 0
        return NoSpaceError(destination, needed=needed, free=free)
    reason = error.strerror or error
    return StoreError(
        f"cannot write {destination}: {reason}",
        path=destination,
        help=_HELP.get(error.errno or 0, ""),
    )


def no_checkpoint(destination: Path) -> StoreError:
    """Return the refusal to replace what is no checkpoint."""
    return StoreError(
        f"{destination} is no checkpoint, and will not be replaced",
        path=destination,
        help="choose another directory, or remove it yourself",
    )


def mount_point(destination: Path) -> StoreError:
    """Return the refusal to replace a mount point: no rename(2) can."""
    return StoreError(
        f"{destination} is a mount point, and cannot be replaced",
        path=destination,
        help="choose a directory below it",
    )


def lower_layer(destination: Path) -> StoreError:
    """Return the refusal to replace what an overlay cannot move."""
    return StoreError(
        f"{destination} is in a lower layer of an overlay file system, where folders "
        "cannot be renamed",
        path=destination,
        help="choose a new directory, or a volume of its own",
    )


def other_format(destination: Path, id: str, found: str, wanted: str) -> StoreError:
    """Return the refusal of a capture that has been made, in another layout."""
    return StoreError(
        f"the capture {id!r} has been made to {destination} with format {found}, "
        f"not {wanted}",
        path=destination,
        help="convert it, or give the capture another operation_id (--operation-id)",
    )


def reserved_name(destination: Path, prefix: str) -> StoreError:
    """Return the refusal of a name that means what may be cleaned up."""
    return StoreError(
        f"{destination} has the name of a checkpoint that is not finished: it would be "
        "removed by the next capture",
        path=destination,
        help=f"choose a name that does not begin with {prefix}",
    )


def no_files_there(folder: Path, destination: Path) -> StoreError:
    """Return the refusal of a file system that the kernel makes up."""
    return StoreError(
        f"cannot write {destination}: {folder} is on a file system that holds no files "
        "(such as /proc and /sys)",
        path=destination,
        help="choose a folder on a disk, or on a tmpfs",
    )


def dangling_link(folder: Path, destination: Path) -> StoreError:
    """Return the refusal of a parent that leads nowhere."""
    return StoreError(
        f"cannot write {destination}: {folder} is a symbolic link that leads nowhere",
        path=destination,
        help="create what it points to, or remove it",
    )


def open_to_all(folder: Path, destination: Path) -> StoreError:
    """Return the refusal of a folder in which anybody may rename our files."""
    return StoreError(
        f"cannot write {destination} safely: everybody may rename and remove what is "
        f"in {folder}",
        path=destination,
        help=f"chmod o-w (or +t) {folder}, or choose another folder",
    )


def unable_to_rename(destination: Path) -> StoreError:
    """Return the refusal of a file system that lacks renameat2(2)'s flags."""
    return StoreError(
        f"the file system of {destination} cannot rename atomically "
        "(renameat2 with NOREPLACE or EXCHANGE)",
        path=destination,
        help="use a local file system such as ext4, xfs, btrfs or tmpfs",
    )


def not_synced(destination: Path, error: OSError) -> StoreError:
    """Return the news that a checkpoint stands, but not yet on the disk."""
    return StoreError(
        f"{destination} is written, but may not survive a power cut: "
        f"{error.strerror or error}",
        path=destination,
        help="look after the disk, and capture again",
    )


def _room_above(path: Path) -> Room | None:
    for folder in path.parents:
        try:
            return find_room(folder)
        except OSError:
            continue
    return None
