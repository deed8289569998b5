"""The C library, twice, and the one way to turn its -1 into an exception."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
"""Lets the GIL go during a call: for what may block or copies many pages."""

pylibc = ctypes.PyDLL(None, use_errno=True)
"""Keeps the GIL: for microseconds on a stopped tracee.

A call that gives the GIL up while another thread computes waits a whole switch
interval (5 ms) to have it back; forty of them turn a freeze of 0.3 ms into 200.
"""


class iovec(ctypes.Structure):
    """``struct iovec``, ``readv(2)``."""

    _fields_ = [("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t)]


def check(result: int, call: str) -> int:
    """Return *result*, or raise the :exc:`OSError` that errno names."""
    if result == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{call}: {os.strerror(errno)}")

    return result
