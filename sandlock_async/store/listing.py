"""Which checkpoints a folder holds, and what they take."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from sandlock_async.errors import CheckpointNotFoundError, ImageError
from sandlock_async.image import layout
from sandlock_async.image.age import SUFFIX
from sandlock_async.image.directory import (
    READ_TRIES,
    image_error,
    is_at,
    open_image,
)
from sandlock_async.kernel.files import let_go

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

    None is followed below it. One that is replaced meanwhile is measured anew.

    :raises CheckpointNotFoundError: if there is no such directory
    :raises ImageError: if it cannot be read
    """
    for _ in range(READ_TRIES):
        fd = open_image(path)
        try:
            found = _measure(fd)
            if is_at(path, fd):
                return found
        except FileNotFoundError:
            continue  # removed under our eyes, as is what has been replaced
        except OSError as error:
            raise image_error(error, path) from error
        finally:
            let_go(fd)
    raise ImageError(f"{path}: changes all the time", path=path)


def _measure(fd: int) -> Sizes:
    total = disk = 0
    for _, _, names, folder_fd in os.fwalk(".", dir_fd=fd, follow_symlinks=False):
        for name in names:
            found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
            total += found.st_size
            disk += 512 * found.st_blocks
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
