"""``ptrace(2)``: the requests a capture needs.

The kernel obeys only the thread that attached; every function here but
:func:`seize` must be called on that thread, and answers ``ESRCH`` elsewhere.
"""

import ctypes
import errno
from enum import IntEnum

from sandlock_async.kernel.libc import check, iovec, libc, pylibc


class Request(IntEnum):
    """``PTRACE_*`` of ``linux/ptrace.h``."""

    DETACH = 17
    GETSIGINFO = 0x4202
    GETREGSET = 0x4204
    SEIZE = 0x4206
    INTERRUPT = 0x4207


class Regset(IntEnum):
    """``NT_*`` register sets of ``linux/elf.h``."""

    PRSTATUS = 1


class siginfo_t(ctypes.Structure):
    """``siginfo_t``: the head of its 128 bytes, ``asm-generic/siginfo.h``."""

    _fields_ = [
        ("si_signo", ctypes.c_int),
        ("si_errno", ctypes.c_int),
        ("si_code", ctypes.c_int),
        ("_sifields", ctypes.c_byte * 116),
    ]


_ARGTYPES = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

# SEIZE can sleep: it takes the lock that an execve(2) under way holds.
_ptrace_blocking = libc["ptrace"]
_ptrace_blocking.argtypes = _ARGTYPES
_ptrace_blocking.restype = ctypes.c_long

_ptrace = pylibc["ptrace"]
_ptrace.argtypes = _ARGTYPES
_ptrace.restype = ctypes.c_long


def seize(tid: int) -> None:
    """Make the thread *tid* a tracee of the calling thread, without stopping it.

    May block while the tracee's program is in execve(2).

    :raises OSError: ``ESRCH`` if there is no such thread, ``EPERM`` if it may not
        be traced, has a tracer already, or is exiting
    """
    check(_ptrace_blocking(Request.SEIZE, tid, None, None), f"ptrace(SEIZE, {tid})")


def interrupt(tid: int) -> None:
    """Ask the tracee to stop; it does so at its next return to user space.

    :raises OSError: ``ESRCH`` if the tracee is gone
    """
    check(_ptrace(Request.INTERRUPT, tid, None, None), f"ptrace(INTERRUPT, {tid})")


def stop_siginfo(tid: int) -> tuple[int, int] | None:
    """Return ``(si_signo, si_code)`` of the tracee's present stop.

    None while it runs, and when it is gone: the kernel says ``ESRCH`` to both.
    Needs no wait, so nobody can have taken the answer before us.
    """
    siginfo = siginfo_t()
    if _ptrace(Request.GETSIGINFO, tid, None, ctypes.addressof(siginfo)) == -1:
        if ctypes.get_errno() == errno.ESRCH:
            return None
        check(-1, f"ptrace(GETSIGINFO, {tid})")
    return siginfo.si_signo, siginfo.si_code


def getregset(tid: int, regset: Regset, max_size: int = 1024) -> bytes:
    """Return one register set of a stopped tracee, as the kernel lays it out.

    :raises OSError: ``ESRCH`` if the tracee is gone or running
    """
    buffer = ctypes.create_string_buffer(max_size)
    iov = iovec(ctypes.addressof(buffer), max_size)
    check(
        _ptrace(Request.GETREGSET, tid, regset, ctypes.addressof(iov)),
        f"ptrace(GETREGSET, {tid})",
    )
    return buffer.raw[: iov.iov_len]


def detach(tid: int, signal: int = 0) -> None:
    """Let a stopped tracee go, handing it *signal* if one was caught in flight.

    :raises OSError: ``ESRCH`` if the tracee is gone or not stopped
    """
    check(_ptrace(Request.DETACH, tid, None, signal), f"ptrace(DETACH, {tid})")
