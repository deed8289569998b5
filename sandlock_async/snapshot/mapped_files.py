"""The files that a process has mapped: which they are, and pages it never touched.

Such a page is the file's content, so it is read from the file, after the thaw. Only
from a regular file that is still the mapped one, and has not been changed meanwhile:
what cannot be vouched for is reported, never guessed.
"""

import errno
import mmap
import os
import stat
import weakref
from collections.abc import Iterable
from typing import NamedTuple

from sandlock_async.errors import UncapturableError
from sandlock_async.kernel import files
from sandlock_async.model import FileIdentity, Skipped
from sandlock_async.plan import SegmentPlan
from sandlock_async.procfs.maps import Mapping
from sandlock_async.snapshot.pieces import Backing, BytesBacking, FileBacking, Piece

_COPIED_BYTES = 256 << 10
"""Less of a segment is copied at once; for more the file is kept open."""

# Private mappings of these are anonymous memory with a name.
_ZEROS = (b"/dev/zero", b"/anon_hugepage")

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

FileKey = tuple[tuple[int, int], int]
"""Device and inode, as maps shows them."""


class Stamp(NamedTuple):
    """Which file it is, and when it was changed: ctime, which nobody can put back."""

    identity: FileIdentity
    ctime_ns: int


Identities = dict[FileKey, Stamp | None]


def key_of(mapping: Mapping) -> FileKey:
    """Return what tells the mapped file from others."""
    return mapping.device, mapping.inode


def identify(pid: int, root_fd: int, mappings: Iterable[Mapping]) -> Identities:
    """Return which files are mapped; None for one that cannot be looked at.

    :param root_fd: ``/proc/PID/root``; the paths of maps are below it
    """
    found: Identities = {}
    for mapping in mappings:
        key = key_of(mapping)
        if key not in found and mapping.map.has_file:
            found[key] = _identify(pid, root_fd, mapping)
    return found


def _identify(pid: int, root_fd: int, mapping: Mapping) -> Stamp | None:
    this = mapping.map
    try:
        # The very file, deleted ones too; needs CAP_CHECKPOINT_RESTORE, proc(5).
        return _stamp(os.stat(f"/proc/{pid}/map_files/{this.start:x}-{this.end:x}"))
    except OSError:
        pass
    try:
        status = os.stat(mapping.raw_path.lstrip(b"/"), dir_fd=root_fd)
    except OSError:
        return None
    return _stamp(status) if _is_same(status, mapping) else None


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(identity_of(status), status.st_ctime_ns)


def identity_of(status: os.stat_result) -> FileIdentity:
    """Return what the image keeps of a file's status."""
    return FileIdentity(
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


class MappedFiles:
    """Reads untouched pages of mapped files. Closed by :meth:`close`, or when unused.

    :ivar pieces: what it found, by segment number
    :ivar skipped: what it could not vouch for
    """

    def __init__(self, pid: int, root_fd: int, before: Identities) -> None:
        self._pid = pid
        self._root_fd = root_fd
        self._before = before
        self._fds: dict[FileKey, int | str | None] = {}
        self._kept: list[int] = []
        self._finalizer = weakref.finalize(self, _close_all, self._kept)
        self.pieces: dict[int, list[Piece]] = {}
        self.skipped: list[Skipped] = []

    def close(self) -> None:
        """Close the files that are kept open; closing twice does nothing."""
        self._finalizer()

    def read(self, segments: Iterable[tuple[int, SegmentPlan]]) -> None:
        """Find the pages of numbered segments. Call after the thaw; may wait for disks.

        :raises OSError: ``EMFILE`` if there may be no more open files
        """
        keep: set[int] = set()
        try:
            for index, segment in segments:
                if segment.from_file:
                    self._read(index, segment, keep)
        finally:
            for fd in self._fds.values():
                if isinstance(fd, int):
                    (self._kept.append if fd in keep else files.let_go)(fd)
            self._fds.clear()

    def _read(self, index: int, segment: SegmentPlan, keep: set[int]) -> None:
        key = key_of(segment.mapping)
        if key not in self._fds:
            self._fds[key] = self._open(segment.mapping)
        opened = self._fds[key]
        if isinstance(opened, str):
            self._skip(segment, _pairs(segment.from_file), opened)
        elif opened is not None:
            self._take(index, segment, opened, keep)

    def _take(self, index: int, segment: SegmentPlan, fd: int, keep: set[int]) -> None:
        shift = segment.mapping.map.offset - segment.start
        # The last page of the file is mapped whole, what follows not at all.
        end = -(-os.fstat(fd).st_size // mmap.PAGESIZE) * mmap.PAGESIZE - shift
        inside = [(low, min(high, end)) for low, high in _pairs(segment.from_file)]
        past = [(max(low, end), high) for low, high in _pairs(segment.from_file)]
        self._skip(segment, past, "past the end of the mapped file")
        inside = [(low, high) for low, high in inside if low < high]
        watched = _Watched(fd, self._pid, segment.mapping)
        small = sum(high - low for low, high in inside) <= _COPIED_BYTES
        if not small:
            keep.add(fd)
        pieces: list[Piece] = []
        for low, high in inside:
            backing: Backing = watched
            offset = low + shift
            if small:
                copy = bytearray(high - low)
                watched.readinto(offset, memoryview(copy))
                backing, offset = BytesBacking(bytes(copy)), 0
            start = segment.start
            pieces.append(Piece(low - start, high - start, backing, offset))
        self.pieces[index] = pieces

    def _skip(
        self, segment: SegmentPlan, ranges: Iterable[tuple[int, int]], reason: str
    ) -> None:
        path = segment.mapping.map.path
        self.skipped += [
            Skipped(start=start, end=end, path=path, reason=reason)
            for start, end in ranges
            if start < end
        ]

    def _open(self, mapping: Mapping) -> int | str | None:
        """Return a descriptor; why there is none; None where the pages are zeros."""
        if mapping.raw_path.removesuffix(b" (deleted)") in _ZEROS:
            return None
        this = mapping.map
        exact = True
        try:
            # The very file, deleted ones too; needs CAP_CHECKPOINT_RESTORE, proc(5).
            place = f"/proc/{self._pid}/map_files/{this.start:x}-{this.end:x}"
            fd = os.open(place, _FLAGS)
        except OSError as error:
            _raise_if_exhausted(error)
            exact = False
            try:
                fd = self._open_otherwise(mapping)
            except OSError as error:
                _raise_if_exhausted(error)
                return (
                    f"untouched pages of a file that cannot be opened: {error.strerror}"
                )
        try:
            reason = self._reason(fd, mapping, exact=exact)
        except BaseException:
            files.let_go(fd)
            raise
        if reason is not None:
            files.let_go(fd)
            return reason
        return fd

    def _reason(self, fd: int, mapping: Mapping, *, exact: bool) -> str | None:
        """Return why an open file cannot be vouched for, None if it can."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return "untouched pages of something that is not a regular file"
        if not exact and not _is_same(status, mapping):
            return "untouched pages of a file that has been replaced since"
        if self._before.get(key_of(mapping)) not in (None, _stamp(status)):
            return "untouched pages of a file that was written to meanwhile"
        return None

    def _open_otherwise(self, mapping: Mapping) -> int:
        # A memfd, or a deleted file, that the process has open as well.
        if mapping.map.is_unreopenable:
            for number in files.list_numbers(f"/proc/{self._pid}/fd"):
                place = f"/proc/{self._pid}/fd/{number}"
                if files.read_link(place) == mapping.raw_path:
                    return os.open(place, _FLAGS)
        path = mapping.raw_path.lstrip(b"/")
        return os.open(path, _FLAGS, dir_fd=self._root_fd)


class _Watched(FileBacking):
    """A file whose bytes count only as long as nobody writes to it."""

    def __init__(self, fd: int, pid: int, mapping: Mapping) -> None:
        super().__init__(fd)
        self._stamp = _stamp(os.fstat(fd))
        self._pid = pid
        self._path = mapping.map.path

    def readinto(self, offset: int, buffer: memoryview) -> None:
        super().readinto(offset, buffer)
        if _stamp(os.fstat(self._fd)) != self._stamp:
            raise UncapturableError(
                f"{self._path}, which process {self._pid} has mapped, was written to "
                "before its untouched pages had been read",
                pid=self._pid,
                phase="write",
                help="capture again; what the process has touched is never affected",
            )


def _raise_if_exhausted(error: OSError) -> None:
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise error


def _is_same(found: os.stat_result, mapping: Mapping) -> bool:
    # btrfs and overlayfs show another device in maps than in stat(2). Root insists
    # on it all the same: inode numbers alone can be forged, by a FUSE server.
    same_device = found.st_dev == os.makedev(*mapping.device)
    return found.st_ino == mapping.inode and (same_device or os.geteuid() != 0)


def _pairs(flat: list[int]) -> list[tuple[int, int]]:
    return list(zip(flat[0::2], flat[1::2], strict=True))


def _close_all(fds: list[int]) -> None:
    while fds:
        files.let_go(fds.pop())
