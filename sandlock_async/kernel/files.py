"""Small reads of ``/proc`` that keep the GIL, for the frozen window.

``os.readlink`` and friends give the GIL up: 6 µs become 500 when another thread
computes. Only for files of procfs, which answer at once.
"""

import ctypes
import errno
import os
import struct

from sandlock_async.kernel.libc import check, libc, pylibc
from sandlock_async.kernel.scratch import SCRATCH, SCRATCH_BYTES

_open = pylibc["open"]
_open.argtypes = (ctypes.c_char_p, ctypes.c_int)
_open.restype = ctypes.c_int

_close = pylibc["close"]
_close.argtypes = (ctypes.c_int,)
_close.restype = ctypes.c_int

_read = pylibc["read"]
_read.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_read.restype = ctypes.c_ssize_t

_readlink = pylibc["readlink"]
_readlink.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_readlink.restype = ctypes.c_ssize_t


class statfs(ctypes.Structure):
    """``struct statfs``, ``asm-generic/statfs.h``: its head of 120 bytes."""

    _fields_ = [("f_type", ctypes.c_long), ("_rest", ctypes.c_byte * 112)]


_fstatfs = pylibc["fstatfs"]
_fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)
_fstatfs.restype = ctypes.c_int

_lseek = pylibc["lseek"]
_lseek.argtypes = (ctypes.c_int, ctypes.c_long, ctypes.c_int)
_lseek.restype = ctypes.c_long

_PREAD_ARGTYPES = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)

_pread = libc["pread"]
_pread.argtypes = _PREAD_ARGTYPES
_pread.restype = ctypes.c_ssize_t

_pread_holding_gil = pylibc["pread"]
_pread_holding_gil.argtypes = _PREAD_ARGTYPES
_pread_holding_gil.restype = ctypes.c_ssize_t

_getdents64 = pylibc["getdents64"]
_getdents64.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_getdents64.restype = ctypes.c_ssize_t

_AT_FDCWD = -100
_STATX_NLINK = 4
_STATX_SIZE = 0x200


class statx(ctypes.Structure):
    """``struct statx`` of ``linux/stat.h``, 256 bytes: its head."""

    _fields_ = [
        ("stx_mask", ctypes.c_uint32),
        ("stx_blksize", ctypes.c_uint32),
        ("stx_attributes", ctypes.c_uint64),
        ("stx_nlink", ctypes.c_uint32),
        ("stx_uid", ctypes.c_uint32),
        ("stx_gid", ctypes.c_uint32),
        ("stx_mode", ctypes.c_uint16),
        ("_spare0", ctypes.c_uint16),
        ("stx_ino", ctypes.c_uint64),
        ("stx_size", ctypes.c_uint64),
        ("_rest", ctypes.c_byte * 208),
    ]


_statx = pylibc["statx"]
_statx.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_void_p,
)
_statx.restype = ctypes.c_int

_DIRENT_HEAD = struct.Struct("=QqHB")  # struct linux_dirent64, getdents64(2)


def open_fd(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a file of procfs and return the descriptor; :func:`close_fd` closes it.

    :raises OSError: ``ENOENT`` if it is gone, ``EACCES`` without rights
    """
    return check(_open(path.encode(), flags | os.O_CLOEXEC), "open", path)


def close_fd(fd: int) -> None:
    """Close a descriptor of procfs, or of a file in memory."""
    _close(fd)


def let_go(fd: int) -> None:
    """Close a descriptor that nothing was written to, whatever close(2) says.

    It is closed in any case, and an error would be that of a writer.
    """
    try:
        os.close(fd)
    except OSError:
        pass


def read_record(path: str) -> bytes:
    """Return the content of a file of procfs that is one record: stat, fdinfo, status.

    Such a file (``single_open()``) is handed out whole: a short read is its end.

    :raises OSError: whatever open(2) or read(2) say
    """
    return _read_until(path, SCRATCH_BYTES - 1)


def read_file(path: str) -> bytes:
    """Return the whole content of a file of procfs.

    :raises OSError: whatever open(2) or read(2) say
    """
    # Of many records about a page is handed out at a time, and 0 only at the end.
    return _read_until(path, 0)


def _read_until(path: str, last: int) -> bytes:
    """Read until a read of at most *last* bytes."""
    fd = open_fd(path)
    try:
        buffer = SCRATCH.buffer
        pieces: list[bytes] = []
        while True:
            count = check(_read(fd, buffer, SCRATCH_BYTES), "read", path)
            pieces.append(ctypes.string_at(buffer, count))
            if count <= last:
                return b"".join(pieces)
    finally:
        _close(fd)


def read_link(path: str) -> bytes:
    """Return where a symbolic link of procfs points, as raw bytes.

    :raises OSError: ``ENOENT`` if it is gone, ``EACCES`` without rights
    """
    buffer = SCRATCH.buffer
    count = check(_readlink(path.encode(), buffer, SCRATCH_BYTES), "readlink", path)
    return ctypes.string_at(buffer, count)


def list_numbers(path: str) -> list[int]:
    """Return the entries of a procfs directory whose names are numbers, in order.

    :raises OSError: ``ENOENT`` or ``ESRCH`` if the process is gone
    """
    fd = open_fd(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        buffer = SCRATCH.buffer
        numbers: list[int] = []
        while count := check(
            _getdents64(fd, buffer, SCRATCH_BYTES), "getdents64", path
        ):
            entries = ctypes.string_at(buffer, count)
            position = 0
            while position < count:
                _, _, length, _ = _DIRENT_HEAD.unpack_from(entries, position)
                start = position + _DIRENT_HEAD.size
                name = entries[start : entries.index(b"\0", start)]
                if name.isdigit():
                    numbers.append(int(name))
                position += length
        return sorted(numbers)
    finally:
        _close(fd)


def pread(fd: int, address: int, size: int, offset: int, *, hold_gil: bool) -> int:
    """Read at *offset* to our memory at *address*; return the number of bytes.

    :param hold_gil: keep the GIL; for pieces of memory up to about 1 MiB
    :raises OSError: as pread(2); ``EIO`` from ``/proc/PID/mem`` where nothing is mapped
    """
    call = _pread_holding_gil if hold_gil else _pread
    return check(call(fd, address, size, offset), "pread", fd)


def file_system(fd: int) -> int:
    """Return which kind of file system a file is on, ``linux/magic.h``.

    :raises OSError: as fstatfs(2)
    """
    found = statfs()
    check(_fstatfs(fd, ctypes.addressof(found)), "fstatfs", fd)
    return int(found.f_type)


def data_ranges(fd: int, start: int, end: int) -> list[int]:
    """Return the parts of ``[start, end)`` of a file that are no holes, flat.

    For files in memory, which answer at once.

    :raises OSError: as lseek(2)
    """
    found: list[int] = []
    while start < end:
        try:
            low = check(_lseek(fd, start, os.SEEK_DATA), "lseek", fd)
        except OSError as error:
            if error.errno == errno.EINVAL:  # hugetlbfs does not tell
                return [*found, start, end]
            if error.errno != errno.ENXIO:  # a hole up to the end
                raise
            break
        try:
            start = min(check(_lseek(fd, low, os.SEEK_HOLE), "lseek", fd), end)
        except OSError as error:
            if error.errno != errno.ENXIO:  # cut short by somebody just now
                raise
            break
        if low < start:
            found += (low, start)
    return found


def count_threads(pid: int) -> int:
    """Return how many threads the process has, dead ones that nobody reaped included.

    A directory has two links and one for each folder in it, and the kernel counts
    those of ``/proc/PID/task`` by the threads: a tenth of the time of reading stat.

    :raises OSError: ``ENOENT`` if the process is gone
    """
    return int(_stat(f"/proc/{pid}/task", _STATX_NLINK).stx_nlink) - 2


def count_fds(pid: int) -> int:
    """Return how many descriptors the process has; 0 if the kernel does not tell.

    From Linux 6.2 on that is the size of ``/proc/PID/fd``.

    :raises OSError: ``ENOENT`` if the process is gone
    """
    return int(_stat(f"/proc/{pid}/fd", _STATX_SIZE).stx_size)


def _stat(path: str, wanted: int) -> statx:
    found = statx()
    check(
        _statx(_AT_FDCWD, path.encode(), 0, wanted, ctypes.addressof(found)),
        "statx",
        path,
    )
    return found


def is_gone(error: OSError) -> bool:
    """Whether *error* is procfs saying that the process is no longer there."""
    return error.errno in (errno.ENOENT, errno.ESRCH)
