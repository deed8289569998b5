"""``process_vm_readv(2)`` and its twin: pages copied from one process to another."""

import ctypes
import errno
import os
from array import array
from collections.abc import Sequence

from sandlock_async.kernel.libc import check, iovec, libc, pylibc
from sandlock_async.kernel.scratch import SCRATCH

IOV_MAX = 1024
"""Ranges a call takes, ``linux/uio.h`` (UIO_MAXIOV)."""

MAX_BYTES = 0x7FFFF000
"""Bytes a call moves at most, ``linux/fs.h`` (MAX_RW_COUNT)."""

_NOWHERE = (1 << 64) - 4096
"""Where no process has anything: an address of the kernel's."""

_ARGTYPES = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
)

_readv = libc["process_vm_readv"]
_readv.argtypes = _ARGTYPES
_readv.restype = ctypes.c_ssize_t

_readv_holding_gil = pylibc["process_vm_readv"]
_readv_holding_gil.argtypes = _ARGTYPES
_readv_holding_gil.restype = ctypes.c_ssize_t

_writev_holding_gil = pylibc["process_vm_writev"]
_writev_holding_gil.argtypes = _ARGTYPES
_writev_holding_gil.restype = ctypes.c_ssize_t


def readv(pid: int, remote: "array[int]", address: int, *, hold_gil: bool) -> int:
    """Copy *remote* ranges of *pid*, packed, to our memory at *address*.

    :param remote: ``[base, length, base, length, …]`` as u64 (an ``iovec`` array),
        at most :data:`IOV_MAX` pairs and :data:`MAX_BYTES` bytes
    :param hold_gil: keep the GIL; for pieces up to about 1 MiB
    :return: the number of bytes copied; short if a page could not be read
    :raises OSError: ``EFAULT`` if the very first page cannot be read
    """
    base, _ = remote.buffer_info()
    local = iovec(address, sum(remote[1::2]))
    call = _readv_holding_gil if hold_gil else _readv
    return check(
        call(pid, ctypes.addressof(local), 1, base, len(remote) // 2, 0),
        "process_vm_readv",
        pid,
    )


def read(pid: int, address: int, size: int) -> bytes:
    """Return a few bytes of *pid*'s memory; keeps the GIL.

    :param size: at most 64 KiB
    :raises OSError: ``EFAULT`` if not all of them can be read
    """
    local, remote = iovec(SCRATCH.address, size), iovec(address, size)
    arguments = (pid, ctypes.addressof(local), 1, ctypes.addressof(remote), 1, 0)
    _all(size, _readv_holding_gil(*arguments), "process_vm_readv", pid)
    return ctypes.string_at(SCRATCH.address, size)


def read_all(pid: int, places: "Sequence[tuple[int, int]]") -> bytes:
    """Return a few bytes from several *places* (address, size) in one step.

    :raises OSError: ``EFAULT`` if not all of them can be read
    """
    remote = array("Q", [word for place in places for word in place])
    size = sum(remote[1::2])
    local = iovec(SCRATCH.address, size)
    base, _ = remote.buffer_info()
    arguments = (pid, ctypes.addressof(local), 1, base, len(places), 0)
    _all(size, _readv_holding_gil(*arguments), "process_vm_readv", pid)
    return ctypes.string_at(SCRATCH.address, size)


def write(pid: int, address: int, content: bytes) -> None:
    """Overwrite a few bytes of *pid*'s memory; keeps the GIL.

    :param content: at most 64 KiB
    :raises OSError: ``EFAULT`` if not all of them can be written
    """
    size = len(content)
    ctypes.memmove(SCRATCH.address, content, size)
    local, remote = iovec(SCRATCH.address, size), iovec(address, size)
    arguments = (pid, ctypes.addressof(local), 1, ctypes.addressof(remote), 1, 0)
    _all(size, _writev_holding_gil(*arguments), "process_vm_writev", pid)


def may_access(tid: int) -> bool:
    """Whether the thread *tid* is one that we may attach to; nothing of it is touched.

    The kernel asks for the same right as for PTRACE_SEIZE (``PTRACE_MODE_ATTACH``, and
    all security modules), and before it looks for the page.

    :raises OSError: ``ESRCH`` if it is gone, ``ENOSYS`` where the call is not known
    """
    try:
        read(tid, _NOWHERE, 1)
    except OSError as error:
        if error.errno not in (errno.EFAULT, errno.EPERM):
            raise
        return error.errno == errno.EFAULT
    return True


def _all(size: int, moved: int, call: str, pid: int) -> None:
    if check(moved, call, pid) != size:
        raise OSError(errno.EFAULT, f"{call}({pid}): {os.strerror(errno.EFAULT)}")
