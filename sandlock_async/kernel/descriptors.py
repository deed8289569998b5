"""Copies of another process's descriptors, and looks into them that take nothing out.

All of it keeps the GIL: microseconds each, and some of it for the frozen window.
"""

import ctypes
import errno
import os
import socket

from sandlock_async.kernel.files import close_fd
from sandlock_async.kernel.libc import check, pylibc

PIDFD_GETFD = 438  # the same on every machine, asm-generic/unistd.h
KCMP_FILE = 0  # enum kcmp_type, linux/kcmp.h
FIONREAD = 0x541B  # asm-generic/ioctls.h
F_SETPIPE_SZ = 1031  # F_LINUX_SPECIFIC_BASE + 7, linux/fcntl.h
F_GETPIPE_SZ = 1032
SPLICE_F_NONBLOCK = 2  # linux/splice.h
SO_PEEK_OFF = 42  # asm-generic/socket.h
POLLIN, POLLERR, POLLRDHUP = 0x1, 0x8, 0x2000  # asm-generic/poll.h

_BUFFER_BYTES = 1 << 18


class pollfd(ctypes.Structure):
    """``struct pollfd``, ``poll(2)``."""

    _fields_ = [
        ("fd", ctypes.c_int),
        ("events", ctypes.c_short),
        ("revents", ctypes.c_short),
    ]


_syscall = pylibc["syscall"]
_syscall.argtypes = (ctypes.c_long,) * 6
_syscall.restype = ctypes.c_long

_read = pylibc["read"]
_read.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_read.restype = ctypes.c_ssize_t

_ioctl = pylibc["ioctl"]
_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_ioctl.restype = ctypes.c_int

_fcntl = pylibc["fcntl"]
_fcntl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int)
_fcntl.restype = ctypes.c_int

_pipe2 = pylibc["pipe2"]
_pipe2.argtypes = (ctypes.c_void_p, ctypes.c_int)
_pipe2.restype = ctypes.c_int

_tee = pylibc["tee"]
_tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
_tee.restype = ctypes.c_ssize_t

_poll = pylibc["poll"]
_poll.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int)
_poll.restype = ctypes.c_int

_recv = pylibc["recv"]
_recv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_recv.restype = ctypes.c_ssize_t

_getsockopt = pylibc["getsockopt"]
_getsockopt.argtypes = (
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
)
_getsockopt.restype = ctypes.c_int

_setsockopt = pylibc["setsockopt"]
_setsockopt.argtypes = (
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_uint,
)
_setsockopt.restype = ctypes.c_int


def getfd(pidfd: int, fd: int) -> int:
    """Return a descriptor of ours for the open file description of another process.

    Closed on exec. Give it to :func:`close`.

    :raises OSError: ``EBADF`` if it has no such descriptor, ``ESRCH`` if it is gone,
        ``EPERM`` without rights, ``EMFILE`` if we have no room
    """
    return check(_syscall(PIDFD_GETFD, pidfd, fd, 0, 0, 0), "pidfd_getfd", fd)


def compare_files(number: int, pid: int, one: int, other: int) -> int:
    """Return 0 if two descriptors share an open file description, else an order.

    :param number: of ``kcmp(2)`` on this machine
    :return: 0, or -1 or 1 as the first is to be sorted before or after the other
    :raises OSError: ``EPERM`` without rights, ``EBADF``, ``ESRCH``, ``ENOSYS``
    """
    result = _syscall(number, pid, pid, KCMP_FILE, one, other)
    return (0, -1, 1, 1)[check(result, "kcmp", pid, one, other)]


def waiting_bytes(fd: int) -> int:
    """Return how many bytes a pipe or a stream socket has to be read.

    :raises OSError: ``EINVAL`` from a listening socket
    """
    found = ctypes.c_int()
    check(_ioctl(fd, FIONREAD, ctypes.addressof(found)), "ioctl(FIONREAD)", fd)
    return found.value


class PipeCopy:
    """A pipe of ours that takes a copy of what is in another one. Close it."""

    def __init__(self) -> None:
        ends = (ctypes.c_int * 2)()
        flags = os.O_CLOEXEC | os.O_NONBLOCK
        check(_pipe2(ctypes.addressof(ends), flags), "pipe2")
        self._read_end, self._write_end = ends
        try:
            self._size = fcntl(self._write_end, F_GETPIPE_SZ)
        except OSError:
            self.close()
            raise

    def copy(self, fd: int, count: int) -> list[bytes]:
        """Return the first *count* bytes in a pipe, without taking them out.

        In one piece, or as many as there are packets (``O_DIRECT``). Fewer than
        *count* bytes if so many pages are not allowed to a pipe of ours.

        :raises OSError: as tee(2); ``EAGAIN`` if it is empty
        """
        wanted = fcntl(fd, F_GETPIPE_SZ)
        if wanted > self._size:
            try:
                self._size = fcntl(self._write_end, F_SETPIPE_SZ, wanted)
            except PermissionError:
                pass  # above fs.pipe-max-size, or fs.pipe-user-pages-soft
        left = check(_tee(fd, self._write_end, count, SPLICE_F_NONBLOCK), "tee", fd)
        buffer = ctypes.create_string_buffer(left)
        pieces: list[bytes] = []
        while left > 0:
            got = check(_read(self._read_end, buffer, left), "read", self._read_end)
            pieces.append(ctypes.string_at(buffer, got))
            left -= got
        return pieces

    def close(self) -> None:
        """Close both ends."""
        close_fd(self._read_end)
        close_fd(self._write_end)


def fcntl(fd: int, command: int, argument: int = 0) -> int:
    """Return what ``fcntl(2)`` says to a command with a number.

    :raises OSError: as fcntl(2)
    """
    return check(_fcntl(fd, command, argument), "fcntl", fd, command)


def socket_type(fd: int) -> int:
    """Return ``SOCK_*`` of a socket."""
    return _option(fd, socket.SO_TYPE)


def peek_stream(fd: int) -> bytes:
    """Return all that waits in a unix stream socket, without taking it out.

    Descriptors in flight with it stay there: nothing has room for them.

    :raises OSError: as recv(2)
    """
    # Never beyond the last byte: an error that waits would be taken out there.
    left = waiting_bytes(fd)
    if not left:
        return b""
    buffer = ctypes.create_string_buffer(left)
    before = _option(fd, SO_PEEK_OFF)
    if before < 0:
        got = _peek(fd, buffer, left)
        if got == left:
            return buffer.raw
    # It ends early where descriptors are, or where the writer changes. Peeking goes
    # on from there only with an offset, which is the socket's, hence the program's.
    pieces: list[bytes] = []
    try:
        _set_option(fd, SO_PEEK_OFF, 0)
        while left > 0 and (got := _peek(fd, buffer, left)):
            pieces.append(ctypes.string_at(buffer, got))
            left -= got
    finally:
        _set_option(fd, SO_PEEK_OFF, before)
    return b"".join(pieces)


def peek_messages(fd: int, *, connected: bool) -> list[bytes]:
    """Return the messages that wait in a unix socket, without taking them out.

    Empty ones that somebody has peeked at before are left out: the kernel marks them.

    :param connected: whether it is of ``SOCK_SEQPACKET``, not ``SOCK_DGRAM``
    :raises OSError: as recv(2)
    """
    state = pollfd(fd, POLLIN | POLLRDHUP, 0)
    check(_poll(ctypes.addressof(state), 1, 0), "poll", fd)
    if not state.revents & POLLIN:
        return []
    if state.revents & POLLERR:
        # A recv(2) would take the error out that the program is to see.
        raise OSError(errno.EIO, "an error waits in it")
    # The end of a connection reads as an empty message, again and again.
    left = waiting_bytes(fd) if connected and state.revents & POLLRDHUP else None
    messages: list[bytes] = []
    buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
    before = _option(fd, SO_PEEK_OFF)
    try:
        _set_option(fd, SO_PEEK_OFF, 0)
        while left is None or left > 0:
            try:
                size = _peek(fd, buffer, len(buffer), socket.MSG_TRUNC)
            except BlockingIOError:
                break
            if size > len(buffer):
                buffer = ctypes.create_string_buffer(size)
                _set_option(fd, SO_PEEK_OFF, sum(map(len, messages)))
                continue
            messages.append(ctypes.string_at(buffer, size))
            if left is not None:
                left -= size
    finally:
        _set_option(fd, SO_PEEK_OFF, before)
    return messages


def _peek(
    fd: int, buffer: "ctypes.Array[ctypes.c_char]", size: int, flags: int = 0
) -> int:
    flags |= socket.MSG_PEEK | socket.MSG_DONTWAIT
    return check(_recv(fd, buffer, size, flags), "recv", fd)


def _option(fd: int, option: int) -> int:
    value, size = ctypes.c_int(), ctypes.c_uint(4)
    result = _getsockopt(
        fd,
        socket.SOL_SOCKET,
        option,
        ctypes.addressof(value),
        ctypes.addressof(size),
    )
    check(result, "getsockopt", fd, option)
    return value.value


def _set_option(fd: int, option: int, value: int) -> None:
    number = ctypes.c_int(value)
    address = ctypes.addressof(number)
    result = _setsockopt(fd, socket.SOL_SOCKET, option, address, 4)
    check(result, "setsockopt", fd, option)
