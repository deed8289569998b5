"""A checkpoint directory while it is written: aside, locked, and gone on failure.

::

    .sandlock-async-stage-5f0c…/   everything but meta.json      (invisible to list)
    .sandlock-async-stage-5f0c…/   meta.json, all of it synced
    web/                           one rename

A stage is locked (``flock(2)``) as long as its writer lives; whoever stages next
to it removes those that nobody holds. Everything here blocks: call it on a worker.
"""

import errno
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from sandlock_async.errors import CheckpointExistsError, StoreError
from sandlock_async.image import layout
from sandlock_async.image.age import SUFFIX, Recipients, pieces_of_bytes
from sandlock_async.kernel.files import let_go
from sandlock_async.kernel.libc import surely
from sandlock_async.kernel.rename import Rename, renameat2
from sandlock_async.store import refusals
from sandlock_async.store.listing import is_checkpoint
from sandlock_async.store.place import Place
from sandlock_async.store.removal import (
    PROBE,
    STAGE_PREFIX,
    Reserve,
    is_named,
    make_folder,
    open_folder,
    open_own,
    remove,
    remove_abandoned,
    try_lock,
)
from sandlock_async.store.space import find_room, require_space
from sandlock_async.store.syncing import sync_folder, sync_parents

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 16

_ABLE: set[tuple[int, int, bool]] = set()
"""Folders, by device and inode, in which renames have worked; and whether exchanges."""

_ABLE_AT_MOST = 1024

_SETTLE_TRIES = 1000
_SETTLE_S = 0.001

_HELD_S = 10.0
"""Nobody of ours holds a checkpoint for longer than a rename; others might."""


class Stage:
    """A directory next to *destination* that becomes it, or disappears.

    :param replace: put it in the place of a checkpoint that is there
    :param durable: make it survive a power cut, with fsync(2)
    :param recipients: those for whom every file is encrypted
    :ivar needed_bytes: what room was asked for
    :raises CheckpointExistsError: if something is there and may not be replaced
    :raises StoreError: if the place, or its file system, will not do
    """

    def __init__(
        self,
        destination: Path,
        *,
        replace: bool,
        durable: bool,
        recipients: Recipients | None = None,
    ) -> None:
        self.destination = destination
        self.path: Path = destination.parent / _new_name()
        self.durable = durable
        self.recipients = recipients
        self.written_bytes: int = 0
        self.needed_bytes: int = 0
        self._replace = replace
        self._place = Place(destination, replace=replace)
        self._reserve = Reserve()
        self._fd = -1
        self._folders = list(layout.DIRECTORIES)
        self._committed = False
        with refusals.translated(destination):
            try:
                self._place.open()
                self._reserve.fill(self._place.fd)
                remove_abandoned(self._place.fd)
                self._make()
                self._probe_rename()
                if replace and self._place.is_overlay():
                    self._probe_layer()
            except BaseException:
                self.discard()
                raise

    def require(self, needed: int, inodes: int = 0) -> None:
        """Return if there is room for *needed* bytes of an image now.

        :param inodes: files and folders that are still to be made
        :raises NoSpaceError: if not
        :raises StoreError: if the file system does not tell
        """
        self.needed_bytes = needed
        with refusals.translated(self.destination):
            room = find_room(self._fd)
        require_space(self.destination, needed=needed, room=room, inodes=inodes)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, mode 0600."""
        sealed_for = self.recipients
        if sealed_for is not None:
            name += SUFFIX
        fd = os.open(name, _CREATE, 0o600, dir_fd=self._fd)
        try:
            os.fchmod(fd, 0o600)
            if sealed_for is not None:
                self.written_bytes += sealed_for.seal_to(fd, pieces_of_bytes(content))
            else:
                view = memoryview(content)
                while view:
                    view = view[os.write(fd, view) :]
                self.written_bytes += len(content)
            if self.durable:
                os.fsync(fd)
        finally:
            os.close(fd)

    def add_child(self, pid: int) -> None:
        """Make the folders of a descendant; doing so twice does nothing."""
        for folder in layout.child_folders(pid):
            if folder not in self._folders:
                make_folder(folder, self._fd)
                self._folders.append(folder)

    def commit(self, meta: bytes, keep: Callable[[int], bool] | None = None) -> None:
        """Add ``meta.json`` and put the directory at its place in one rename.

        When this returns the checkpoint stands; an older one is gone.

        :param keep: whether a checkpoint of ours that is there stays, nevertheless;
            given an open directory
        :raises CheckpointExistsError: if one is there and is to stay
        :raises StoreError: if what came to be there meanwhile is no checkpoint, or
            the rename may not have reached the disk
        """
        self.write(layout.META, meta)
        if self.durable:
            for folder in (*reversed(self._folders), "."):
                sync_folder(folder, self._fd)
            sync_parents(self._place.fd)
        self._reserve.release()
        try:
            replaced_fd = self._rename(keep)
        except FileExistsError:
            raise CheckpointExistsError(self.destination) from None
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EXDEV):
                raise refusals.unable_to_rename(self.destination) from error
            raise
        self._committed = True
        try:
            if self.durable:
                os.fsync(self._place.fd)
            if replaced_fd >= 0:
                remove(replaced_fd, self.path.name, self._place.fd)
        except OSError as error:
            # What was replaced is kept: it is there again, if the rename is lost.
            raise refusals.not_synced(self.destination, error) from error
        finally:
            if replaced_fd >= 0:
                let_go(replaced_fd)
            self._close()

    def discard(self) -> None:
        """Remove what was written, unless it has been committed. Never fails."""
        self._reserve.release()
        if not self._committed:
            if self._fd >= 0:
                remove(self._fd, self.path.name, self._place.fd)
            else:
                self._unmake()
            self._place.leave()
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            let_go(fd)
        self._place.close()

    # -- before ----------------------------------------------------------------

    def _make(self) -> None:
        gone: FileNotFoundError | None = None
        for _ in range(_TRIES):
            name = self.path.name
            try:
                make_folder(name, self._place.fd)
                fd = open_folder(name, self._place.fd)
            except FileNotFoundError as error:
                gone = error
                self._place.open()  # somebody cleans up here at this moment
                continue
            self._fd = fd
            # Somebody who cleans up may have had it between mkdir and flock.
            if try_lock(fd) and os.fstat(fd).st_nlink:
                for folder in layout.DIRECTORIES:
                    make_folder(folder, fd)
                return
            self._fd = -1
            let_go(fd)
            self._unmake()
            self.path = self.path.with_name(_new_name())
        if gone is not None:
            raise gone  # or nothing can be made here at all
        raise StoreError(
            f"no stage could be locked beside {self.destination}",
            path=self.destination,
            help="use a file system on which flock(2) works, or try again",
        )

    def _unmake(self) -> None:
        """Remove a stage that was made but could not be opened."""
        try:
            os.rmdir(self.path.name, dir_fd=self._place.fd)
        except OSError:
            pass  # there is none

    def _probe_rename(self) -> None:
        """Find out now, not after the capture, that the file system cannot rename."""
        folder = os.fstat(self._place.fd)
        place = (folder.st_dev, folder.st_ino, self._replace)
        if place in _ABLE:
            return
        # Inside the stage, which is locked: beside it somebody might clean up.
        one, other = (self.path / name for name in ("process", layout.EXTENDED))
        twin = self.path / PROBE
        try:
            if self._replace:
                renameat2(one, other, Rename.EXCHANGE)
                renameat2(one, other, Rename.EXCHANGE)
            else:
                renameat2(other, twin, Rename.NOREPLACE)
                renameat2(twin, other, Rename.NOREPLACE)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
                raise refusals.unable_to_rename(self.destination) from error
            raise
        if len(_ABLE) >= _ABLE_AT_MOST:
            _ABLE.clear()
        _ABLE.add(place)

    def _probe_layer(self) -> None:
        """Find out now that an overlay cannot move what is at the destination."""
        # Nothing is moved onto a folder that is not empty: ENOTEMPTY. An overlay
        # says EXDEV before it comes to that, ovl_rename() in fs/overlayfs/dir.c.
        full = self.path / "process"
        try:
            self.destination.rename(full)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise refusals.lower_layer(self.destination) from error
        else:  # somebody has emptied our stage
            full.rename(self.destination)

    # -- at the end ------------------------------------------------------------

    def _rename(self, keep: Callable[[int], bool] | None) -> int:
        """Return a descriptor of the checkpoint that was replaced, -1 if none was."""
        if not self._replace:
            renameat2(self.path, self.destination, Rename.NOREPLACE)
            return -1
        for _ in range(_TRIES):
            try:
                with nullcontext() if keep is None else self._held(keep):
                    renameat2(self.path, self.destination, Rename.EXCHANGE)
            except FileNotFoundError:
                pass  # nothing there to replace
            else:
                return self._replaced()
            try:
                renameat2(self.path, self.destination, Rename.NOREPLACE)
            except FileExistsError:
                continue  # now there is
            return -1
        raise CheckpointExistsError(self.destination)

    @contextmanager
    def _held(self, keep: Callable[[int], bool]) -> Generator[None]:
        """Have nobody else who asks first replace what is at the destination now.

        It is locked itself, so nothing is left of that whoever is killed. Whoever
        finds nothing there puts his own there, or finds that somebody else has.

        :raises CheckpointExistsError: if that is to stay
        :raises FileNotFoundError: if there is nothing
        """
        name, folder_fd = self.destination.name, self._place.fd
        deadline = time.monotonic() + _HELD_S
        while True:
            os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
            fd = open_own(name, folder_fd)
            if fd < 0:
                break  # another user's, or no folder
            try:
                if keep(fd):
                    raise CheckpointExistsError(self.destination)
                is_locked = not is_checkpoint(fd) or try_lock(fd)
                if not is_named(fd, name, folder_fd):
                    continue  # replaced meanwhile, and perhaps half removed
                if is_locked or time.monotonic() > deadline:
                    yield
                    return
            finally:
                let_go(fd)
            time.sleep(_SETTLE_S)
        yield

    def _replaced(self) -> int:
        """Open what came out of an exchange, and put back what is no checkpoint."""
        try:
            return self._open_replaced()
        except BaseException:
            try:
                renameat2(self.path, self.destination, Rename.EXCHANGE)
            except OSError as error:
                self._committed = True  # it stands, so it must not be emptied
                raise StoreError(
                    f"{self.destination} has been replaced, though it was no "
                    f"checkpoint; it is at {self.path} now",
                    path=self.destination,
                ) from error
            raise

    def _open_replaced(self) -> int:
        name = self.path.name
        for _ in range(_SETTLE_TRIES):
            try:
                fd = surely(lambda: open_folder(name, self._place.fd))
            except FileNotFoundError:
                return -1  # a checkpoint that somebody has cleaned up already
            except NotADirectoryError:
                break
            try:
                if is_checkpoint(fd):
                    return os.dup(fd)
                # Half of one, if somebody cleans it up: it is locked, then gone.
                alone = try_lock(fd) and bool(os.fstat(fd).st_nlink)
            finally:
                let_go(fd)
            if alone:
                break
            time.sleep(_SETTLE_S)
        raise refusals.no_checkpoint(self.destination)


def _new_name() -> str:
    return STAGE_PREFIX + os.urandom(16).hex()
