"""Folders by descriptor: made, opened, and removed with all that is in them.

A path may come to mean something else at any moment; an open directory does not.
"""

import errno
import fcntl
import os
import stat
from pathlib import Path

from sandlock_async.image import layout
from sandlock_async.image.age import SUFFIX
from sandlock_async.kernel.files import let_go
from sandlock_async.store.listing import TOP_LEVEL, names_in

STAGE_PREFIX = ".sandlock-async-stage-"

PROBE = "probe"
"""A folder that a stage holds for a moment."""

_TRIES = 2

_NOT_OURS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)

_DEPTH = 8
"""Folders in each other that are gone through: an image has four of them."""

_RESERVED_FDS = 6
"""The depth of an image, what lists a folder, and a checkpoint that is replaced."""


def open_folder(name: str | os.PathLike[str], dir_fd: int | None = None) -> int:
    """Return a descriptor of a directory that is no symbolic link.

    :raises OSError: ``ENOTDIR`` if it is something else, ``ENOENT``, ``EACCES``
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=dir_fd)


def open_own(name: str | os.PathLike[str], dir_fd: int | None = None) -> int:
    """Return a descriptor of a directory that is ours, -1 if there is none.

    In a folder that is shared, others can put anything at a name that they guess.

    :raises OSError: ``EMFILE``, ``EIO`` and the like
    """
    try:
        fd = open_folder(name, dir_fd)
    except OSError as error:
        if error.errno in _NOT_OURS:
            return -1
        raise
    is_ours = False
    try:
        is_ours = os.fstat(fd).st_uid == os.geteuid()
    finally:
        if not is_ours:
            let_go(fd)
    return fd if is_ours else -1


def make_folder(name: str | os.PathLike[str], dir_fd: int | None = None) -> None:
    """Make a directory, mode 0700 whatever the umask.

    :raises OSError: as mkdir(2); there is none then, unless there was one before
    """
    os.mkdir(name, 0o700, dir_fd=dir_fd)
    try:
        _close_to_others(name, dir_fd)
    except OSError:
        os.rmdir(name, dir_fd=dir_fd)
        raise


def _close_to_others(name: str | os.PathLike[str], dir_fd: int | None) -> None:
    made = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if stat.S_IMODE(made.st_mode) == 0o700:
        return
    # As a place: without rights we could not open it.
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=dir_fd)
    try:
        Path(f"/proc/self/fd/{fd}").chmod(0o700)
    finally:
        os.close(fd)


def try_lock(fd: int) -> bool:
    """Lock an open directory; return whether nobody else has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove(fd: int, name: str, parent_fd: int) -> None:
    """Remove the open directory *fd*, and its *name* if that still means it.

    Never fails: what cannot be removed stays, for the next one who cleans up.
    """
    for _ in range(_TRIES):
        # meta.json first: a directory without it is a checkpoint to nobody.
        for meta in (layout.META, layout.META + SUFFIX):
            try:
                os.unlink(meta, dir_fd=fd)
            except OSError:
                pass
        try:
            _empty(fd, _DEPTH)
        except OSError:
            pass
        try:
            if is_named(fd, name, parent_fd):
                os.rmdir(name, dir_fd=parent_fd)
        except OSError:
            continue
        return


def _empty(fd: int, depth: int) -> None:
    """Remove what is in an open directory, as far down as *depth*."""
    for name in os.listdir(fd):
        try:
            os.unlink(name, dir_fd=fd)
        except IsADirectoryError:
            if depth:
                _remove_inner(name, fd, depth - 1)
        except OSError:
            continue


def _remove_inner(name: str, parent_fd: int, depth: int) -> None:
    try:
        fd = open_folder(name, parent_fd)
        try:
            _empty(fd, depth)
        finally:
            let_go(fd)
        os.rmdir(name, dir_fd=parent_fd)
    except OSError:
        pass


def remove_abandoned(parent_fd: int) -> None:
    """Remove our stages in a folder whose writers are gone.

    Those of other users are theirs to remove, whatever they have put in there.
    """
    for name in os.listdir(parent_fd):  # there may be thousands of images
        if not name.startswith(STAGE_PREFIX):
            continue
        try:
            fd = open_own(name, parent_fd)
        except OSError:
            continue
        if fd < 0:
            continue  # gone, not ours, or not a stage
        try:
            # It may be what a killed writer has just replaced: if it went before the
            # disk knows of that, neither would be there after a power cut.
            if _is_abandoned(fd, name, parent_fd) and _is_synced(parent_fd):
                remove(fd, name, parent_fd)
        finally:
            let_go(fd)


def _is_synced(fd: int) -> bool:
    try:
        os.fsync(fd)
    except OSError:
        return False
    return True


def _is_abandoned(fd: int, name: str, parent_fd: int) -> bool:
    if not try_lock(fd):
        return False
    # Its writer may have committed it after it was opened here, and gone: then it
    # is a checkpoint, elsewhere. While we hold the lock nobody commits it any more.
    try:
        if not is_named(fd, name, parent_fd):
            return False
    except FileNotFoundError:
        return False
    return names_in(fd) <= TOP_LEVEL | {PROBE}


def is_named(fd: int, name: str, parent_fd: int) -> bool:
    """Return whether the open directory *fd* is what *name* means now.

    :raises FileNotFoundError: if it means nothing
    """
    named = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    return os.path.samestat(named, os.fstat(fd))


class Reserve:
    """Descriptors put by: cleaning up must work when there are no others."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def fill(self, fd: int) -> None:
        """Put by duplicates of *fd*.

        :raises OSError: ``EMFILE`` if there are too few
        """
        while len(self._fds) < _RESERVED_FDS:
            self._fds.append(os.dup(fd))

    def release(self) -> None:
        """Make them free for use; doing so twice does nothing."""
        while self._fds:
            let_go(self._fds.pop())
