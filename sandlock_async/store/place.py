"""Where a checkpoint is to stand: the destination, and the folder it is in."""

import errno
import os
import stat
from pathlib import Path

from sandlock_async.errors import CheckpointExistsError
from sandlock_async.kernel import files
from sandlock_async.kernel.files import let_go
from sandlock_async.kernel.libc import surely
from sandlock_async.store import refusals
from sandlock_async.store.listing import is_checkpoint
from sandlock_async.store.removal import STAGE_PREFIX, make_folder, open_folder
from sandlock_async.store.space import Room, find_room

_TRIES = 16

_MADE_UP = frozenset(
    {
        0x9FA0,  # PROC_SUPER_MAGIC, linux/magic.h
        0x62656572,  # SYSFS_MAGIC
        0x27E0EB,  # CGROUP_SUPER_MAGIC
        0x63677270,  # CGROUP2_SUPER_MAGIC
        0x64626720,  # DEBUGFS_MAGIC
        0x74726163,  # TRACEFS_MAGIC
        0x73636673,  # SECURITYFS_MAGIC
        0x1CD1,  # DEVPTS_SUPER_MAGIC
        0xCAFE4A11,  # BPF_FS_MAGIC
    }
)


class Place:
    """A destination, and its folder, open from before the capture to the end.

    :param replace: whether a checkpoint may be there already
    :ivar fd: the folder; -1 while it is not open
    """

    def __init__(self, destination: Path, *, replace: bool) -> None:
        self.destination = destination
        self.folder: Path = destination.parent
        self.fd: int = -1
        self._replace = replace
        self._made: list[Path] = []

    def open(self) -> None:
        """Open the folder, made where it is missing; again, if it has gone since.

        :raises CheckpointExistsError: if something is there and may not be replaced
        :raises StoreError: if what is there, or the folder, will not do
        :raises OSError: as the file system says
        """
        self._check_name()
        self.close()
        for _ in range(_TRIES):
            try:
                self._make_folder()
                # The folder itself may be a symbolic link, unlike the destination.
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                self.fd = os.open(self.folder, flags)
            except FileNotFoundError:
                continue  # somebody cleans up here at this moment
            self._check_folder(self.folder)
            self._check_destination()
            return
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.folder)

    def look(self) -> Room:
        """Return what room is here, after what :meth:`open` checks.

        Nothing is made: of folders that are missing the nearest that is there counts.

        :raises CheckpointExistsError: if something is there and may not be replaced
        :raises StoreError: if what is there, or the folder, will not do
        :raises OSError: as the file system says
        """
        self._check_name()
        missing = self._missing_folders()
        for folder in missing:
            if folder.is_symlink():
                raise refusals.dangling_link(folder, self.destination)
        nearest = missing[-1].parent if missing else self.folder
        # Nobody lists a folder in which only another one is made.
        access = os.O_PATH if missing else os.O_RDONLY
        self.fd = os.open(nearest, access | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._check_folder(nearest)
            if not missing:
                self._check_destination()
            _check_writable(self.fd)
            room = find_room(self.fd)
        finally:
            self.close()
        if any(folder.name == ".." for folder in missing):
            # Made, and left again: it is about another folder.
            real = Path(os.path.realpath(self.folder), self.destination.name)
            return Place(real, replace=self._replace).look()
        return room

    def close(self) -> None:
        """Close the folder; closing twice does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            let_go(fd)

    def leave(self) -> None:
        """Remove the folders that were made, as far as nobody uses them."""
        for folder in reversed(self._made):
            try:
                surely(folder.rmdir)
            except OSError:
                break  # somebody else uses it by now
        self._made.clear()

    def is_overlay(self) -> bool:
        """Whether the folder is on an overlay file system."""
        mount = b"%d " % _mount_of(self.fd)
        with open("/proc/self/mountinfo", "rb") as lines:
            for line in lines:
                if line.startswith(mount):
                    return line.partition(b" - ")[2].startswith(b"overlay ")
        return False

    def _missing_folders(self) -> list[Path]:
        """Return the folders that would have to be made, the innermost first."""
        missing: list[Path] = []
        folder = self.folder
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        return missing

    def _make_folder(self) -> None:
        for folder in reversed(self._missing_folders()):
            try:
                make_folder(folder)
            except FileExistsError:
                if folder.is_symlink() and not folder.exists():
                    raise refusals.dangling_link(folder, self.destination) from None
                continue
            self._made.append(folder)

    def _check_name(self) -> None:
        names = self.destination.parts
        if any(name.startswith(STAGE_PREFIX) for name in names):
            raise refusals.reserved_name(self.destination, STAGE_PREFIX)

    def _check_folder(self, folder: Path) -> None:
        """Return if *folder*, which is open, will do, and where we have made a way to it.

        Whoever may rename a folder may put something else in its place.
        """
        if files.file_system(self.fd) in _MADE_UP:
            raise refusals.no_files_there(folder, self.destination)
        if _is_open_to_all(os.fstat(self.fd)):
            raise refusals.open_to_all(folder, self.destination)
        if self._made:
            above = self._made[0].parent
            if _is_open_to_all(above.stat()):
                raise refusals.open_to_all(above, self.destination)

    def _check_destination(self) -> None:
        name = self.destination.name
        try:
            found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not self._replace:
            raise CheckpointExistsError(self.destination)
        if not stat.S_ISDIR(found.st_mode):
            raise refusals.no_checkpoint(self.destination)
        try:
            fd = open_folder(name, self.fd)
        except FileNotFoundError:
            return
        try:
            if not is_checkpoint(fd):
                raise refusals.no_checkpoint(self.destination)
            if _mount_of(fd) != _mount_of(self.fd):
                raise refusals.mount_point(self.destination)
        finally:
            let_go(fd)


def _is_open_to_all(found: os.stat_result) -> bool:
    """Whether everybody may rename and remove what is in a folder."""
    return bool(found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX)


def _check_writable(fd: int) -> None:
    """Return if something can be made in a folder.

    :raises OSError: ``EROFS`` or ``EACCES`` if not
    """
    if os.access(".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True):
        return
    read_only = os.fstatvfs(fd).f_flag & os.ST_RDONLY
    number = errno.EROFS if read_only else errno.EACCES
    raise OSError(number, os.strerror(number))


def _mount_of(fd: int) -> int:
    """Return the number of the mount an open file is on, ``proc_pid_fdinfo(5)``.

    Tells a mount point that ``st_dev`` does not: a folder bound to another place.
    """
    with open(f"/proc/self/fdinfo/{fd}", "rb") as lines:
        for line in lines:
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    return -1
