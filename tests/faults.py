"""One system call fails, once: which of them a capture makes, and that very one.

What the package calls is wrapped: the ctypes functions of :mod:`sandlock_async.kernel`,
and of the standard library whatever ends in a system call. So calls are told apart by
where in the package they come from, which ``strace -e inject`` cannot, and a capture
with a fault takes no longer than one without.
"""

import builtins
import ctypes
import errno
import fcntl
import importlib
import io
import mmap
import os
import pkgutil
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from errno import (
    EACCES,
    EAGAIN,
    EBADF,
    EBUSY,
    EDQUOT,
    EEXIST,
    EFAULT,
    EFBIG,
    EINTR,
    EINVAL,
    EIO,
    EISDIR,
    ELOOP,
    EMFILE,
    EMLINK,
    ENAMETOOLONG,
    ENFILE,
    ENODEV,
    ENOENT,
    ENOLCK,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTCONN,
    ENOTDIR,
    ENOTEMPTY,
    ENOTSUP,
    ENOTTY,
    ENXIO,
    EOVERFLOW,
    EPERM,
    EROFS,
    ESRCH,
    ETXTBSY,
    EXDEV,
)
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple, Self
from unittest import mock

import aiofiles.threadpool

import sandlock_async
from sandlock_async import kernel
from sandlock_async.injection import search
from sandlock_async.kernel.descriptors import PIDFD_GETFD
from sandlock_async.kernel.ptrace import Request
from sandlock_async.snapshot import window
from sandlock_async.store import stage
from sandlock_async.threads import OUR_THREADS

_C_FUNCTION: Any = type(ctypes.CDLL(None)["close"]).__base__
_PACKAGE = str(Path(sandlock_async.__file__).parent)

_PATH = (EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EIO)
_READ = (EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, EISDIR)
_WRITE = (EAGAIN, EBADF, EDQUOT, EFAULT, EFBIG, EINVAL, EIO, ENOSPC, EPERM)
_LINK = (*_PATH, EDQUOT, EEXIST, EINVAL, EMLINK, ENOSPC, EPERM, EROFS)

ERRNOS: dict[str, tuple[int, ...]] = {
    "ptrace": (EPERM, ESRCH, EIO, EBUSY, EFAULT, EINVAL),
    "process_vm_readv": (EFAULT, EINVAL, ENOMEM, EPERM, ESRCH),
    "process_vm_writev": (EFAULT, EINVAL, ENOMEM, EPERM, ESRCH),
    "waitid": (EAGAIN, errno.ECHILD, EINVAL, ESRCH),
    "pidfd_open": (EINVAL, EMFILE, ENFILE, ENODEV, ENOMEM, ESRCH, EPERM, ENOSYS),
    "pidfd_getfd": (EBADF, EINVAL, EMFILE, ENFILE, EPERM, ESRCH, ENOSYS),
    "pidfd_send_signal": (EBADF, EINVAL, EPERM, ESRCH, ENOSYS),
    "kill": (EINVAL, EPERM, ESRCH),
    "kcmp": (EBADF, EFAULT, EINVAL, EPERM, ESRCH, ENOSYS),
    "get_robust_list": (EFAULT, EPERM, ESRCH, ENOSYS),
    "open": (
        *_PATH,
        *(EBUSY, EDQUOT, EEXIST, EFBIG, EINTR, EINVAL, EISDIR, EMFILE, ENFILE),
        *(ENODEV, ENOSPC, ENXIO, EOVERFLOW, EPERM, EROFS, ETXTBSY, ESRCH),
    ),
    "close": (EIO, ENOSPC, EDQUOT),
    "read": (*_READ, ESRCH),
    "pread": (*_READ, EOVERFLOW, ENXIO, ESRCH),
    "preadv": (*_READ, EOVERFLOW, ENXIO),
    "write": _WRITE,
    "pwrite": (*_WRITE, ENXIO, EOVERFLOW),
    "fsync": (EBADF, EDQUOT, EINVAL, EIO, ENOSPC, EROFS),
    "ftruncate": (EBADF, EFBIG, EINVAL, EIO, EPERM, EROFS, ENOSPC, ETXTBSY),
    "lseek": (EBADF, EINVAL, ENXIO, EOVERFLOW),
    "stat": (*_PATH, EBADF, EFAULT, EINVAL, EOVERFLOW, ESRCH),
    "fstat": (EBADF, EFAULT, ENOMEM, EOVERFLOW, EIO),
    "statx": (*_PATH, EBADF, EFAULT, EINVAL, ESRCH),
    "statfs": (*_PATH, EBADF, EFAULT, EINTR, ENOSYS, EOVERFLOW),
    "fchmod": (EBADF, EIO, EPERM, EROFS, ENOSYS),
    "dup": (EBADF, EMFILE, ENOMEM),
    "getdents": (EBADF, EFAULT, EINVAL, ENOENT, ENOTDIR, EIO, ESRCH),
    "readlink": (*_PATH, EINVAL, ESRCH),
    "mkdir": (*_LINK, EBADF),
    "rmdir": (*_PATH, EBUSY, EINVAL, ENOTEMPTY, EPERM, EROFS),
    "unlink": (*_PATH, EBUSY, EISDIR, EPERM, EROFS),
    "rename": (*_LINK, EBUSY, EISDIR, ENOTEMPTY, EXDEV),
    "link": (*_LINK, EXDEV),
    "getxattr": (*_PATH, errno.ENODATA, ENOTSUP, errno.ERANGE),
    "flock": (EBADF, EINTR, EINVAL, ENOLCK, EAGAIN),
    "ioctl": (EBADF, EFAULT, EINVAL, ENOTTY, ENOMEM, ESRCH),
    "fcntl": (EBADF, EBUSY, EINVAL, EPERM, ENOMEM),
    "mmap": (EAGAIN, EINVAL, ENFILE, ENODEV, ENOMEM, EPERM),
    "madvise": (EAGAIN, EBADF, EFAULT, EINVAL, EIO, ENOMEM, EPERM),
    "clone": (EAGAIN,),
    "pipe": (EFAULT, EINVAL, EMFILE, ENFILE),
    "tee": (EAGAIN, EINVAL, ENOMEM),
    "poll": (EFAULT, EINTR, EINVAL, ENOMEM),
    "socket": (EACCES, EINVAL, EMFILE, ENFILE, errno.ENOBUFS, ENOMEM),
    "send": (EAGAIN, errno.ECONNREFUSED, EINVAL, errno.ENOBUFS, ENOMEM, EPERM),
    "recv": (EAGAIN, EBADF, EFAULT, EINTR, EINVAL, ENOMEM, ENOTCONN),
    "getsockopt": (EBADF, EFAULT, EINVAL, errno.ENOPROTOOPT),
    "setsockopt": (EBADF, EFAULT, EINVAL, errno.ENOPROTOOPT, ENOMEM),
    "sigaction": (EFAULT, EINVAL),
    "prctl": (EFAULT, EINVAL),
    "usleep": (EINTR, EINVAL),
}
"""What each may say: the man pages, and what procfs says of a process that ends."""

_CTYPES = {
    "pipe2": "pipe",
    "renameat2": "rename",
    "getdents64": "getdents",
    "fstatfs": "statfs",
}
_OS = {
    "lstat": "stat",
    "chmod": "fchmod",
    "fstatvfs": "statfs",
    "statvfs": "statfs",
    "listdir": "getdents",
} | {
    name: name
    for name in (
        *("open", "close", "read", "pread", "preadv", "write", "pwrite", "fsync"),
        *("ftruncate", "lseek", "stat", "fstat", "fchmod", "dup", "readlink", "mkdir"),
        *("rmdir", "unlink", "rename", "link", "getxattr", "pidfd_open", "kill"),
    )
}


class Site(NamedTuple):
    """Where a call comes from.

    :ivar call: a key of :data:`ERRNOS`, and what it is to do
    :ivar chain: functions of the package, the caller first, each with its line
    """

    call: str
    chain: tuple[tuple[str, int], ...]

    @property
    def errnos(self) -> tuple[int, ...]:
        return ERRNOS[self.call.partition("(")[0]]

    @property
    def place(self) -> "Site":
        """The same without how it came there, but for one step."""
        return Site(self.call, self.chain[:2])

    def __str__(self) -> str:
        way = " < ".join(f"{name}:{line}" for name, line in self.chain[:6])
        return f"{self.call} in {way or 'a thread'}"


class Fault(NamedTuple):
    """The call that is to fail: the *nth* from a site, from 0 on."""

    site: Site
    nth: int
    error: int

    def __str__(self) -> str:
        return f"{errno.errorcode[self.error]} of #{self.nth} {self.site}"


class Gate:
    """Where all calls come through.

    :ivar seen: how often, by site
    :ivar fault: what is to fail, if anything
    :ivar hit: whether it has
    """

    def __init__(self, fault: Fault | None = None) -> None:
        self.seen: Counter[Site] = Counter()
        self.fault = fault
        self.hit = False
        self._lock = threading.Lock()

    def error_of(self, call: str) -> int:
        """Count a call; return the errno it is to fail with, 0 for none."""
        chain = _chain()
        if not chain and not threading.current_thread().name.startswith(OUR_THREADS):
            return 0
        site = Site(call, chain)
        with self._lock:
            nth = self.seen[site]
            self.seen[site] += 1
            fault = self.fault
            if fault is None or self.hit or fault[:2] != (site, nth):
                return 0
            self.hit = True
        return fault.error

    def check(self, call: str) -> None:
        """Count a call; raise what it is to fail with."""
        error = self.error_of(call)
        if error:
            raise OSError(error, os.strerror(error))


_ours: dict[CodeType, bool] = {}


def _chain() -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code not in _ours:
            _ours[code] = code.co_filename.startswith(_PACKAGE)
        if _ours[code]:
            found.append((code.co_qualname, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


@contextmanager
def intercepted(gate: Gate) -> Iterator[None]:
    """Have all calls of the package come through *gate*, and begin with empty caches."""
    with ExitStack() as patches:

        def patch(owner: Any, name: str, new: Any) -> None:
            patches.enter_context(mock.patch.object(owner, name, new))

        for info in pkgutil.iter_modules(kernel.__path__):
            module = importlib.import_module(f"{kernel.__name__}.{info.name}")
            for name, value in tuple(vars(module).items()):
                if isinstance(value, _C_FUNCTION):
                    patch(module, name, _c_call(gate, value))
        for name, call in _OS.items():
            patch(os, name, _call(gate, call, getattr(os, name)))
        patch(os, "scandir", _scandir(gate))
        for name in ("flock", "ioctl"):
            patch(fcntl, name, _call(gate, name, getattr(fcntl, name)))
        name = "pidfd_send_signal"
        patch(signal, name, _call(gate, name, getattr(signal, name)))
        patch(mmap, "mmap", _call(gate, "mmap", mmap.mmap))
        patch(builtins, "open", _open(gate))
        patch(io, "open", _open(gate))
        patch(aiofiles.threadpool, "sync_open", _open_for_aiofiles(gate))
        patch(socket, "socket", _socket(gate))
        starts = ("_start_new_thread", "_start_joinable_thread")
        name = next(this for this in starts if hasattr(threading, this))
        patch(threading, name, _start_thread(gate, getattr(threading, name)))

        stage._ABLE.clear()
        search._KNOWN.clear()
        window._looked_at = float("inf")  # one rehearsal, as after another capture
        yield


def _c_call(gate: Gate, function: Any) -> Callable[..., int]:
    name = function.__name__

    def call(*arguments: Any) -> int:
        error = gate.error_of(_name_of(name, arguments))
        if not error:
            return int(function(*arguments))
        if name == "close":
            function(*arguments)  # it is closed all the same, close(2)
        ctypes.set_errno(error)
        return -1

    return call


def _name_of(name: str, arguments: tuple[Any, ...]) -> str:
    match name:
        case "ptrace":
            return f"ptrace({Request(arguments[0]).name})"
        case "syscall" if arguments[0] == PIDFD_GETFD:
            return "pidfd_getfd"
        case "syscall":
            return "kcmp" if len(arguments) == 6 else "get_robust_list"
    return _CTYPES.get(name, name)


def _call(gate: Gate, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        error = gate.error_of(name)
        if not error:
            return function(*arguments, **options)
        if name == "close":
            function(*arguments)  # it is closed all the same, close(2)
        raise OSError(error, os.strerror(error))

    return call


def _start_thread(gate: Gate, function: Callable[..., Any]) -> Callable[..., Any]:
    def start(*arguments: Any, **options: Any) -> Any:
        if gate.error_of("clone"):
            raise RuntimeError("can't start new thread")  # so CPython says it
        return function(*arguments, **options)

    return start


class _Entries:
    """What ``os.scandir()`` returns."""

    def __init__(self, gate: Gate, entries: Any) -> None:
        self._gate, self._entries = gate, entries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._entries.close()

    def __iter__(self) -> "_Entries":
        return self

    def __next__(self) -> Any:
        self._gate.check("getdents")
        return next(self._entries)

    def close(self) -> None:
        self._entries.close()


def _scandir(gate: Gate) -> Callable[..., _Entries]:
    real = os.scandir

    def scandir(*arguments: Any) -> _Entries:
        gate.check("open")
        return _Entries(gate, real(*arguments))

    return scandir


class _File:
    """A file object; what is written to it is when it is closed."""

    def __init__(self, gate: Gate, file: Any) -> None:
        self._gate, self._file = gate, file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        writes = self._file.writable() and not isinstance(self._file, io.FileIO)
        error = self._gate.error_of("write") if writes else 0
        error = error or self._gate.error_of("close")
        self._file.close()
        if error:
            raise OSError(error, os.strerror(error))

    def __iter__(self) -> Iterator[Any]:
        self._gate.check("read")
        return iter(self._file)

    def read(self, *arguments: Any) -> Any:
        self._gate.check("read")
        return self._file.read(*arguments)

    def readall(self) -> Any:
        self._gate.check("read")
        return self._file.readall()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _open(gate: Gate) -> Callable[..., Any]:
    real = io.open

    def opened(*arguments: Any, **options: Any) -> Any:
        if not _chain():
            return real(*arguments, **options)
        gate.check("open")
        return _File(gate, real(*arguments, **options))

    return opened


class _RawFile(io.FileIO):
    """What aiofiles opens without a buffer."""

    gate: Gate

    def write(self, *arguments: Any) -> Any:
        self.gate.check("write")
        return super().write(*arguments)

    def seek(self, *arguments: Any) -> Any:
        self.gate.check("lseek")
        return super().seek(*arguments)

    def truncate(self, *arguments: Any) -> Any:
        self.gate.check("ftruncate")
        return super().truncate(*arguments)


def _open_for_aiofiles(gate: Gate) -> Callable[..., _RawFile]:
    def opened(fd: int, mode: str, *, closefd: bool, **_: Any) -> _RawFile:
        gate.check("fstat")
        file = _RawFile(fd, mode.replace("b", ""), closefd=closefd)
        file.gate = gate
        return file

    return opened


def _socket(gate: Gate) -> type[socket.socket]:
    class Socket(socket.socket):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            gate.check("socket")
            super().__init__(*arguments, **options)

        def send(self, *arguments: Any) -> int:
            gate.check("send")
            return super().send(*arguments)

        def recv(self, *arguments: Any) -> bytes:
            gate.check("recv")
            return super().recv(*arguments)

    return Socket
