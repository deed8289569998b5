"""Which checkpoints a folder holds, and what they take."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from sandlock_async.errors import (
    CheckpointNotFoundError,
    ImageCorruptError,
    ImageError,
)
from sandlock_async.image import layout
from sandlock_async.image.age import SUFFIX
from sandlock_async.image.directory import READ_TRIES, ImageDirectory
from sandlock_async.image.unreadable import image_error

_METAS = (layout.META, layout.META + SUFFIX)

TOP_LEVEL = frozenset(
    name.partition("/")[0]
    for name in (
        *_METAS,
        layout.POLICY,
        layout.POLICY + SUFFIX,
        layout.APP_STATE,
        layout.APP_STATE + SUFFIX,
        layout.CHILDREN,
        *layout.DIRECTORIES,
    )
)
"""What a checkpoint directory may hold."""


def find_checkpoints(store: Path) -> list[str]:
    """Return the names of the directories in *store* that hold a ``meta.json``.

    Stages and other names that begin with a dot are none. Sorted.

    :raises CheckpointNotFoundError: if *store* is no directory
    :raises ImageError: if it cannot be read
    """
    try:
        with os.scandir(store) as entries:
            return sorted(entry.name for entry in entries if _is_listed(entry))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointNotFoundError(store) from None
    except OSError as error:
        raise image_error(error, store) from error


def is_checkpoint(fd: int) -> bool:
    """Whether an open directory is a checkpoint, and nothing else is in it."""
    if not names_in(fd) <= TOP_LEVEL:
        return False
    return any(
        _has_file(fd, layout.META + suffix) and _has_file(fd, layout.INFO + suffix)
        for suffix in ("", SUFFIX)
    )


def names_in(fd: int) -> set[str]:
    """Return what an open directory holds."""
    with os.scandir(fd) as entries:
        return {entry.name for entry in entries}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the files of a checkpoint take.

    :ivar total_bytes: their lengths together
    :ivar disk_bytes: what they occupy; less, where there are holes
    """

    total_bytes: int
    disk_bytes: int


def measure(path: Path) -> Sizes:
    """Return the sizes of the checkpoint at *path*, which may be a symbolic link.

    None is followed below it, and no folder entered that no image has. One that is
    replaced meanwhile is measured anew.

    :raises CheckpointNotFoundError: if there is no such directory
    :raises ImageError: if it cannot be read
    """
    for _ in range(READ_TRIES):
        directory = ImageDirectory(path)
        try:
            found = _measure(directory)
            if directory.is_current():
                return found
        except ImageCorruptError:
            if directory.is_current():  # what has been replaced is removed
                raise
        finally:
            directory.close()
    raise ImageError(f"{path}: changes all the time", path=path)


def _measure(directory: ImageDirectory) -> Sizes:
    total = disk = 0
    for _, status in directory.walk():
        if not stat.S_ISDIR(status.st_mode):
            total += status.st_size
            disk += 512 * status.st_blocks
    return Sizes(total_bytes=total, disk_bytes=disk)


def _is_listed(entry: "os.DirEntry[str]") -> bool:
    if entry.name.startswith("."):
        return False
    try:
        return entry.is_dir() and any(
            os.path.lexists(os.path.join(entry.path, name)) for name in _METAS
        )
    except OSError:
        return False  # a symbolic link to itself, or to where we may not look


def _has_file(fd: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except OSError:
        return False
