"""A checkpoint directory while it is written: aside, locked, and gone on failure.

::

    .sandlock-async-stage-5f0c…/   everything but meta.json      (invisible to list)
    .sandlock-async-stage-5f0c…/   meta.json, all of it synced
    web/                           one rename

A stage is locked (``flock(2)``) as long as its writer lives; whoever stages next
to it removes those that nobody holds. Everything here blocks: call it on a worker.
"""

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from sandlock_async.errors import (
    CheckpointExistsError,
    NoSpaceError,
    SandlockAsyncError,
    StoreError,
)
from sandlock_async.image import layout
from sandlock_async.kernel.rename import Rename, renameat2

STAGE_PREFIX = ".sandlock-async-stage-"

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK_TRIES = 16


class Stage:
    """A directory next to *destination* that becomes it, or disappears.

    :param replace: put it in the place of a checkpoint that is there
    :param durable: make it survive a power cut, with fsync(2)
    :raises CheckpointExistsError: if something is there and may not be replaced
    :raises StoreError: if the place, or its file system, will not do
    """

    def __init__(self, destination: Path, *, replace: bool, durable: bool) -> None:
        self.destination = destination
        self.durable = durable
        self.written_bytes: int = 0
        self._replace = replace
        self._made: list[Path] = []
        self._lock_fd = -1
        self._committed = False
        with _translated(destination):
            try:
                self._check_destination()
                self._make_parents()
                _remove_abandoned(destination.parent)
                self.path = self._make()
                self._probe_rename()
            except BaseException:
                self.discard()
                raise

    def free_bytes(self) -> int:
        """Return what an ordinary user can still write to the file system."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def require(self, needed: int) -> None:
        """Return if there is room for *needed* bytes now.

        :raises NoSpaceError: if not
        """
        free = self.free_bytes()
        if needed > free:
            raise NoSpaceError(self.destination, needed=needed, free=free)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, mode 0600."""
        fd = os.open(self.path / name, _CREATE, 0o600)
        try:
            os.fchmod(fd, 0o600)
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            self.written_bytes += len(content)
            if self.durable:
                os.fsync(fd)
        finally:
            os.close(fd)

    def commit(self, meta: bytes) -> None:
        """Add ``meta.json`` and put the directory at its place in one rename.

        When this returns the checkpoint stands; an older one is gone.
        """
        self.write(layout.META, meta)
        if self.durable:
            for folder in (*reversed(layout.DIRECTORIES), "."):
                _sync_directory(self.path / folder)
        try:
            self._rename()
        except FileExistsError:
            raise CheckpointExistsError(self.destination) from None
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EXDEV):
                raise self._unable_to_rename() from error
            raise
        self._committed = True
        if self.durable:
            _sync_directory(self.destination.parent)
        self._remove_stage()  # after an exchange it is the old checkpoint
        self._unlock()

    def discard(self) -> None:
        """Remove what was written, unless it has been committed. Never fails."""
        if self._committed:
            return
        self._remove_stage()
        for folder in reversed(self._made):
            try:
                folder.rmdir()
            except OSError:
                break  # somebody else uses it by now
        self._made.clear()
        self._unlock()

    # -- before ----------------------------------------------------------------

    path: Path

    def _check_destination(self) -> None:
        try:
            found = self.destination.lstat()
        except FileNotFoundError:
            return
        if not self._replace:
            raise CheckpointExistsError(self.destination)
        meta = self.destination / layout.META
        if not stat.S_ISDIR(found.st_mode) or not meta.exists():
            raise StoreError(
                f"{self.destination} is no checkpoint, and will not be replaced",
                path=self.destination,
                help="choose another directory, or remove it yourself",
            )

    def _make_parents(self) -> None:
        missing: list[Path] = []
        parent = self.destination.parent
        while not parent.exists():
            missing.append(parent)
            parent = parent.parent
        for folder in reversed(missing):
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                continue
            self._made.append(folder)

    def _make(self) -> Path:
        for _ in range(_LOCK_TRIES):
            path = self.destination.parent / f"{STAGE_PREFIX}{uuid4().hex}"
            try:
                path.mkdir(mode=0o700)
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._make_parents()  # somebody cleans up here at this moment
                continue
            # Somebody who cleans up may have had it between mkdir and flock.
            if _lock(fd) and os.fstat(fd).st_nlink:
                self._lock_fd = fd
                path.chmod(0o700)  # whatever the umask
                for folder in layout.DIRECTORIES:
                    (path / folder).mkdir(mode=0o700)
                return path
            os.close(fd)
        raise StoreError(
            f"no stage could be locked beside {self.destination}", path=self.destination
        )

    def _probe_rename(self) -> None:
        """Find out now, not after the capture, that the file system cannot rename."""
        # Inside the stage, which is locked: beside it somebody might clean up.
        one, other = (self.path / name for name in ("process", layout.EXTENDED))
        twin = self.path / "probe"
        try:
            if self._replace:
                renameat2(one, other, Rename.EXCHANGE)
                renameat2(one, other, Rename.EXCHANGE)
            else:
                renameat2(other, twin, Rename.NOREPLACE)
                renameat2(twin, other, Rename.NOREPLACE)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
                raise self._unable_to_rename() from error
            raise

    # -- at the end ------------------------------------------------------------

    def _rename(self) -> None:
        if self._replace:
            try:
                renameat2(self.path, self.destination, Rename.EXCHANGE)
            except FileNotFoundError:
                pass  # nothing there to replace
            else:
                return
        renameat2(self.path, self.destination, Rename.NOREPLACE)

    def _unable_to_rename(self) -> StoreError:
        return StoreError(
            f"the file system of {self.destination} cannot rename atomically "
            "(renameat2 with NOREPLACE or EXCHANGE)",
            path=self.destination,
            help="use a local file system such as ext4, xfs, btrfs or tmpfs",
        )

    def _remove_stage(self) -> None:
        path = getattr(self, "path", None)
        if path is not None:
            _remove(path)

    def _unlock(self) -> None:
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)


@contextmanager
def _translated(destination: Path) -> Generator[None]:
    try:
        yield
    except SandlockAsyncError:
        raise
    except OSError as error:
        raise store_error(error, destination) from error


def store_error(error: OSError, destination: Path, needed: int = 0) -> StoreError:
    """Return what an error of the file system means; looks at what is free.

    :param needed: bytes of the whole image, as far as known
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = _free_above(destination)
        return NoSpaceError(destination, needed=needed, free=free)
    reason = error.strerror or error
    return StoreError(f"cannot write {destination}: {reason}", path=destination)


def _free_above(path: Path) -> int:
    for folder in path.parents:
        try:
            found = os.statvfs(folder)
        except OSError:
            continue
        return found.f_bavail * found.f_frsize
    return 0


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_abandoned(parent: Path) -> None:
    """Remove the stages whose writers are gone."""
    for path in parent.glob(f"{STAGE_PREFIX}*"):
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(path, flags)
        except OSError:
            continue  # gone, not ours to open, or not a stage
        try:
            if _lock(fd):
                _remove(path)
        finally:
            os.close(fd)


def _remove(path: Path) -> None:
    # meta.json first: a directory without it is a checkpoint to nobody.
    try:
        (path / layout.META).unlink()
    except OSError:
        pass
    shutil.rmtree(path, ignore_errors=True)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
