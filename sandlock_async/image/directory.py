"""Reading a checkpoint directory that nobody vouches for.

The directory itself may be a symbolic link; below it none is followed, no device
or pipe is opened, nothing outside is touched, and no length is believed.
"""

import errno
import os
import stat
import threading
import weakref
from collections import OrderedDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from sandlock_async.errors import (
    CheckpointNotFoundError,
    ImageCorruptError,
    ImageError,
)
from sandlock_async.image import layout
from sandlock_async.image.age import (
    SUFFIX,
    Identities,
    Locked,
    WrongKey,
    plain_bytes,
)
from sandlock_async.image.file_segment import FileSegment
from sandlock_async.image.manifest import Entry, decode_manifest
from sandlock_async.image.strict_json import Malformed
from sandlock_async.image.sums import sum_of, sum_of_file
from sandlock_async.image.unreadable import image_error
from sandlock_async.kernel.files import let_go

READ_TRIES = 16
"""Times that a checkpoint is read which is replaced meanwhile."""

_OPEN_FILES = 8
_DECRYPTED_BYTES = 64 << 20
"""Memory that decrypted files take which nobody reads just now."""

_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NO_FILE = "not a regular file of this image"


def open_image(path: Path) -> int:
    """Return a descriptor of a checkpoint directory, or what a link there leads to.

    :raises CheckpointNotFoundError: if there is no such directory
    :raises ImageError: if it cannot be opened
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointNotFoundError(path) from None
    except OSError as error:
        raise image_error(error, path) from error


def is_at(path: Path, fd: int) -> bool:
    """Whether an open directory is still what is at *path*, not replaced or removed."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except OSError:
        return False


class ImageDirectory:
    """An open checkpoint directory; holds one descriptor, and a few for segments.

    Goes on reading this very image when another is put in its place. Closed by
    :meth:`close`, or when nothing refers to it any more.

    :param fd: the directory, if it is open already; closed with this
    :param found: what has been read of the image that it is a descendant's part of
    :param identities: what opens it if it is encrypted
    :param is_encrypted: whether it has to be; by default what is found
    :ivar is_encrypted: whether it is
    :raises CheckpointNotFoundError: if the path is not a directory
    :raises ImageError: if it cannot be opened
    """

    def __init__(
        self,
        path: Path,
        identities: Identities | None = None,
        fd: int | None = None,
        *,
        found: dict[Path, bytes] | None = None,
        is_encrypted: bool | None = None,
    ) -> None:
        self.path = path
        self._identities = identities
        self._is_child = found is not None
        self._found = {} if found is None else found
        fd = open_image(path) if fd is None else fd
        self._fd = fd
        self._segments: OrderedDict[str, _Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._manifest: dict[str, Entry] | None = None
        self._finalizer = weakref.finalize(self, _close_all, fd, self._segments)
        try:
            self.is_encrypted: bool = (
                _status(layout.META + SUFFIX, fd) is not None
                if is_encrypted is None
                else is_encrypted
            )
        except OSError as error:
            self._finalizer()
            raise image_error(error, path / layout.META) from error

    def close(self) -> None:
        """Close every descriptor; closing twice does nothing."""
        with self._lock:
            self._finalizer()

    def is_current(self) -> bool:
        """Whether it is still at its path, not replaced or removed."""
        return is_at(self.path, self._fd)

    def corrupt(self, name: str, reason: str) -> ImageCorruptError:
        """Return the error for file *name*."""
        return ImageCorruptError(self.path / name, reason)

    def children(self) -> list[int]:
        """Return the pids of the descendants that the checkpoint holds, in order.

        :raises ImageCorruptError: if there is something else in their place
        """
        fd = self._open_folder(layout.CHILDREN)
        if fd is None:
            return []
        try:
            with os.scandir(fd) as entries:
                names = [entry.name for entry in entries]
        finally:
            let_go(fd)
        for name in names:
            if not name.isascii() or not name.isdigit() or name.startswith("0"):
                raise self.corrupt(
                    f"{layout.CHILDREN}/{name}", "not a process's number"
                )
        return sorted(map(int, names))

    def child(self, pid: int) -> "ImageDirectory":
        """Open the checkpoint of a descendant.

        :raises ImageCorruptError: if there is none
        """
        name = layout.child_name(pid, "")
        fd = self._open_folder(name)
        if fd is None:
            raise self.corrupt(name, "missing")
        # What is encrypted has nothing in it that is not.
        return ImageDirectory(
            self.path / name,
            self._identities,
            fd,
            found=self._found,
            is_encrypted=self.is_encrypted,
        )

    def _open_folder(self, name: str) -> int | None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        where = self._fd
        try:
            for folder in name.split("/"):
                inner = os.open(folder, flags, dir_fd=where)
                if where != self._fd:
                    let_go(where)
                where = inner
        except OSError as error:
            if where != self._fd:
                let_go(where)
            if error.errno == errno.ENOENT:
                return None
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise self.corrupt(name, "not a folder of this image") from error
            raise image_error(error, self.path / name) from error
        return where

    def read(self, name: str) -> bytes:
        """Return the content of a metadata file.

        :raises ImageCorruptError: if it is missing, no regular file, or too long
        """
        content = self.read_optional(name)
        if content is None:
            raise self.corrupt(name, "missing")
        return content

    def read_optional(self, name: str) -> bytes | None:
        """Return the content of a metadata file, or None if there is none.

        The same whenever it is asked for: what has been checked is what is used.

        :raises ImageCorruptError: if it is no regular file, too long, or another one
            than before
        """
        content = self._read(name)
        found = b"" if content is None else blake3(content).digest()
        if self._found.setdefault(self.path / name, found) != found:
            raise self.corrupt(name, "changed while it was read")
        return content

    def _read(self, name: str) -> bytes | None:
        fd = self._open(name)
        if fd is None:
            return None
        limit = self._limit_of(name)
        try:
            size = os.fstat(fd).st_size
            if size > limit:
                raise self.corrupt(name, f"{size} bytes are too many")
            with open(fd, "rb", closefd=False) as file:
                return file.read(limit)
        except OSError as error:
            raise image_error(error, self.path / name) from error
        finally:
            let_go(fd)

    def _limit_of(self, name: str) -> int:
        return layout.max_bytes(name, of_child=self._is_child)

    def manifest(self) -> dict[str, Entry] | None:
        """Return size and sum of every file, by name; None if nobody has taken them.

        :raises ImageCorruptError: if the manifest is damaged
        """
        if self._manifest is None:
            content = self.read_optional(layout.MANIFEST)
            if content is None:
                return None
            try:
                self._manifest = decode_manifest(content)
            except Malformed as error:
                raise self.corrupt(layout.MANIFEST, str(error)) from error
        return self._manifest

    def walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield name and status of everything but the folders that an image has.

        What is in other folders is not looked at.

        :raises ImageError: if a folder cannot be read
        """
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                fd = os.dup(self._fd) if not folder else self._open_folder(folder)
            except OSError as error:
                raise image_error(error, self.path) from error
            if fd is None:
                continue  # removed meanwhile
            try:
                with os.scandir(fd) as entries:
                    names = sorted(entry.name for entry in entries)
                found = [(name, _status(name, fd)) for name in names]
            except OSError as error:
                raise image_error(error, self.path / folder) from error
            finally:
                let_go(fd)
            for last, status in found:
                if status is None:
                    continue
                name = f"{folder}/{last}" if folder else last
                if self.is_encrypted and not stat.S_ISDIR(status.st_mode):
                    sealed = name.endswith(SUFFIX)
                    name = name[: -len(SUFFIX)] if sealed else f"{name} (plain)"
                if stat.S_ISDIR(status.st_mode) and layout.is_folder(name):
                    folders.append(name)
                else:
                    yield name, status

    def sum(self, name: str, size: int) -> bytes:
        """Return the sum of a file, without reading its holes.

        What is not memory is read as :meth:`read_optional` does.

        :raises ImageCorruptError: if it is missing, or not of that *size*
        :raises ImageError: if it cannot be read
        """
        if not layout.is_memory_file(name):
            content = self.read(name)
            if len(content) != size:
                raise self.corrupt(name, f"{len(content)} bytes instead of {size}")
            return sum_of(content)
        data = self.segment(name, size)
        if self.is_encrypted:
            return self._sum_of_sealed(name)
        try:
            with data.opened() as fd:
                return sum_of_file(fd, size, data.ranges())
        except OSError as error:
            raise image_error(error, self.path / name) from error

    def segment(self, name: str, size: int) -> "FileSegment":
        """Return the bytes of a memory file, to be read at first access.

        :raises ImageCorruptError: if it is missing, or not of that *size*
        """
        segment = self.optional_segment(name, size)
        if segment is None:
            raise self.corrupt(name, "missing")
        return segment

    def optional_segment(self, name: str, size: int) -> "FileSegment | None":
        """Return the bytes of a memory file, or None if there is none.

        :raises ImageCorruptError: if it is not of that *size*
        """
        found = self._size_of(name)
        if found is None:
            return None
        if found != size:
            raise self.corrupt(name, f"{found} bytes instead of {size}")
        return FileSegment(self, name, size)

    def _size_of(self, name: str) -> int | None:
        fd = self._open_plain(name + SUFFIX if self.is_encrypted else name)
        if fd is None:
            return None
        try:
            if self.is_encrypted:
                with self._unlocking(name):
                    return plain_bytes(fd)
            return os.fstat(fd).st_size
        finally:
            let_go(fd)

    @contextmanager
    def lent_fd(self, name: str) -> Generator[int]:
        """Lend an open descriptor of a memory file, from a small cache. Any thread.

        :raises ImageCorruptError: if the file is gone
        :raises ImageError: if it cannot be read
        :raises ValueError: if the directory is closed
        """
        with self._lock:
            cached = self._cached(name)
            try:
                # A copy: another thread may close the directory meanwhile.
                fd = os.dup(cached.fd)
            except OSError as error:
                raise image_error(error, self.path / name) from error
            cached.readers += 1
        try:
            yield fd
        finally:
            let_go(fd)
            with self._lock:
                cached.readers -= 1

    def _cached(self, name: str) -> "_Opened":
        if not self._finalizer.alive:
            raise ValueError(f"the checkpoint {self.path} is closed")
        cached = self._segments.pop(name, None)
        if cached is None:
            self._make_room()
            fd = self._open(name)
            if fd is None:
                raise self.corrupt(name, "missing: removed or replaced since")
            # What is decrypted is in memory; of other files nothing is.
            size = 512 * os.fstat(fd).st_blocks if self.is_encrypted else 0
            cached = _Opened(fd, size)
        self._segments[name] = cached
        return cached

    def _make_room(self) -> None:
        """Close what has not been read for the longest time, for one more."""
        idle = [name for name, it in self._segments.items() if not it.readers]
        size = sum(self._segments[name].size for name in idle)
        for name in idle:
            if len(self._segments) < _OPEN_FILES and size <= _DECRYPTED_BYTES:
                break
            cached = self._segments.pop(name)
            size -= cached.size
            let_go(cached.fd)

    def _open(self, name: str) -> int | None:
        if not self.is_encrypted:
            return self._open_plain(name)
        if name == layout.META:
            self._check_one_meta()
        sealed = self._open_plain(name + SUFFIX)
        if sealed is None:
            return None
        try:
            with self._unlocking(name):
                size = plain_bytes(sealed)
                # Not after it has been decrypted, to memory.
                if not layout.is_memory_file(name) and size > self._limit_of(name):
                    raise self.corrupt(name, f"{size} bytes are too many")
                return _unsealed(self._keys(), sealed)
        finally:
            let_go(sealed)

    def _sum_of_sealed(self, name: str) -> bytes:
        sealed = self._open_plain(name + SUFFIX)
        if sealed is None:
            raise self.corrupt(name, "missing")
        try:
            with self._unlocking(name):
                return self._keys().sum_of(sealed)
        finally:
            let_go(sealed)

    def _keys(self) -> Identities:
        if self._identities is None:
            raise ImageError(
                f"{self.path} is encrypted",
                path=self.path,
                help="give what opens it (identities=, --identity)",
            )
        return self._identities

    @contextmanager
    def _unlocking(self, name: str) -> Generator[None]:
        """Tell what it means if a file cannot be decrypted."""
        try:
            yield
        except Locked as error:
            # One file for others, in an image that is for us, is none of it.
            if isinstance(error, WrongKey) and not self._is_for_us(name):
                raise ImageError(
                    f"{self.path} is encrypted for others",
                    path=self.path,
                    help="give the identity of one of its recipients",
                ) from error
            reason = f"cannot be decrypted: {error}"
            raise self.corrupt(name + SUFFIX, reason) from error
        except OSError as error:
            raise image_error(error, self.path / (name + SUFFIX)) from error

    def _is_for_us(self, name: str) -> bool:
        if name == layout.META:
            return False
        try:
            self.read(layout.META)
        except ImageError:
            return False
        return True

    def _check_one_meta(self) -> None:
        try:
            both = all(
                _status(name, self._fd) for name in (layout.META, layout.META + SUFFIX)
            )
        except OSError as error:
            raise image_error(error, self.path / layout.META) from error
        if both:
            raise self.corrupt(layout.META, "there is an encrypted one, too")

    def _open_plain(self, name: str) -> int | None:
        *folders, last = name.split("/")
        where = self._fd
        try:
            for folder in folders:
                inner = os.open(folder, _PLACE | os.O_DIRECTORY, dir_fd=where)
                if where != self._fd:
                    let_go(where)
                where = inner
            place = os.open(last, _PLACE, dir_fd=where)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise self.corrupt(name, _NO_FILE) from error
            raise image_error(error, self.path / name) from error
        finally:
            if where != self._fd:
                let_go(where)
        try:
            # Whatever else it is, opening it may do something: wake up whoever waits
            # at the other end of a pipe, or rewind a tape.
            if not stat.S_ISREG(os.fstat(place).st_mode):
                raise self.corrupt(name, _NO_FILE)
            return os.open(f"/proc/self/fd/{place}", _READ)
        except OSError as error:
            raise image_error(error, self.path / name) from error
        finally:
            let_go(place)


def _status(name: str, fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


@dataclass(slots=True)
class _Opened:
    """A memory file that is open.

    :ivar size: bytes of memory it takes
    :ivar readers: how many read it just now
    """

    fd: int
    size: int
    readers: int = 0


def _unsealed(identities: Identities, sealed: int) -> int:
    """Return what an age file holds, in a file that is only in memory."""
    fd = os.memfd_create("sandlock-async", os.MFD_CLOEXEC)
    try:
        identities.open_to(sealed, fd)
    except BaseException:
        let_go(fd)
        raise
    return fd


def _close_all(fd: int, segments: "OrderedDict[str, _Opened]") -> None:
    for segment in segments.values():
        let_go(segment.fd)
    segments.clear()
    let_go(fd)
