"""What a power cut must not take: files, folders, and the way to them."""

import os
from contextlib import suppress
from pathlib import Path

from sandlock_async.store import refusals
from sandlock_async.store.removal import open_folder

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WAY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def sync_folder(name: str, dir_fd: int) -> None:
    """Return when the disk knows what a folder holds.

    :raises OSError: as of :func:`open_folder`, or ``EIO``
    """
    fd = open_folder(name, dir_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_parents(fd: int) -> None:
    """Return when the disk knows the way to an open folder, whoever has made it.

    Each folder above it on the same file system, that is; one that we may not read
    is none that we have made.
    """
    here, path = os.fstat(fd), ".."
    while True:
        try:
            above = os.open(path, _WAY, dir_fd=fd)
        except PermissionError:
            return
        try:
            found = os.fstat(above)
            if found.st_dev != here.st_dev or os.path.samestat(found, here):
                return
            with suppress(PermissionError):
                sync_folder(".", above)
        finally:
            os.close(above)
        here, path = found, path + "/.."


def sync_checkpoint(path: Path) -> None:
    """Return when the disk has all of a checkpoint that stands.

    Whoever wrote it may have wanted none of that, or been killed before.

    :raises StoreError: if the disk does not take it
    """
    with refusals.translated(path):
        for _, _, names, fd in os.fwalk(path, onerror=_fail):
            for name in names:
                file = os.open(name, _FILE, dir_fd=fd)
                try:
                    os.fsync(file)
                finally:
                    os.close(file)
            os.fsync(fd)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
            sync_parents(folder)
        finally:
            os.close(folder)


def _fail(error: OSError) -> None:
    raise error
