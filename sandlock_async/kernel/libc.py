"""The C library, twice, and the one way to turn its -1 into an exception."""

import ctypes
import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PR_SET_TIMERSLACK = 29

libc: ctypes.CDLL = ctypes.CDLL(None, use_errno=True)
"""Lets the GIL go during a call: for what may block or copies many pages."""

pylibc: ctypes.PyDLL = ctypes.PyDLL(None, use_errno=True)
"""Keeps the GIL: for microseconds on a stopped tracee.

A call that gives the GIL up while another thread computes waits a whole switch
interval (5 ms) to have it back; forty of them turn a freeze of 0.3 ms into 200.
"""


class iovec(ctypes.Structure):
    """``struct iovec``, ``readv(2)``."""

    _fields_ = [("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t)]


_usleep = libc["usleep"]
_usleep.argtypes = (ctypes.c_uint,)
_usleep.restype = ctypes.c_int


def rest(microseconds: int) -> None:
    """Do nothing for a moment, with the GIL let go, ``usleep(3)``."""
    _usleep(microseconds)


_usleep_holding_gil = pylibc["usleep"]
_usleep_holding_gil.argtypes = (ctypes.c_uint,)
_usleep_holding_gil.restype = ctypes.c_int

_prctl = pylibc["prctl"]
_prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
_prctl.restype = ctypes.c_int


def doze(microseconds: int) -> None:
    """Do nothing for a moment, and let no other Python thread do anything."""
    _usleep_holding_gil(microseconds)


def sleep_precisely() -> None:
    """Let the calling thread's sleeps end in time, not 50 µs late, ``prctl(2)``."""
    _prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


def check(result: int, call: str, *arguments: object) -> int:
    """Return *result*, or raise the :exc:`OSError` that errno names."""
    if result == -1:
        errno = ctypes.get_errno()
        what = ", ".join(map(str, arguments))
        raise OSError(errno, f"{call}({what}): {os.strerror(errno)}")

    return result


def surely(call: Callable[[], T]) -> T:
    """Return what *call* returns; it is made once more if it fails.

    For what must not be left undone, half-way.

    :raises OSError: what it says the second time
    """
    try:
        return call()
    except OSError:
        return call()
