"""``process_vm_readv(2)``: another process's pages, copied straight into a buffer."""

import ctypes
from array import array

from sandlock_async.kernel.libc import check, iovec, libc, pylibc

IOV_MAX = 1024
"""Ranges a call takes, ``linux/uio.h`` (UIO_MAXIOV)."""

MAX_BYTES = 0x7FFFF000
"""Bytes a call moves at most, ``linux/fs.h`` (MAX_RW_COUNT)."""

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
