"""``ptrace(2)``: the requests a capture needs.

The kernel obeys only the thread that attached; every function here but
:func:`seize` must be called on that thread, and answers ``ESRCH`` elsewhere.
"""

import ctypes
import errno
from enum import IntEnum, IntFlag

from sandlock_async.kernel.libc import check, iovec, libc, pylibc
from sandlock_async.kernel.scratch import SCRATCH, SCRATCH_BYTES


class Request(IntEnum):
    """``PTRACE_*`` of ``linux/ptrace.h``."""

    CONT = 7
    DETACH = 17
    SYSCALL = 24
    SETOPTIONS = 0x4200
    GETSIGINFO = 0x4202
    GETREGSET = 0x4204
    SETREGSET = 0x4205
    SEIZE = 0x4206
    INTERRUPT = 0x4207
    PEEKSIGINFO = 0x4209
    GETSIGMASK = 0x420A
    SETSIGMASK = 0x420B
    GET_RSEQ_CONFIGURATION = 0x420F
    GET_SYSCALL_USER_DISPATCH_CONFIG = 0x4211


class Option(IntFlag):
    """``PTRACE_O_*`` of ``linux/ptrace.h``."""

    TRACESYSGOOD = 1


class StopCode(IntEnum):
    """``si_code`` of a stop that is no signal's, ``ptrace(2)``."""

    SYSCALL = 0x85
    """At the entry or the exit of a system call, with ``TRACESYSGOOD``."""
    INTERRUPTED = 0x8005
    """After ``INTERRUPT``, or the first of a new tracee."""


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


class ptrace_peeksiginfo_args(ctypes.Structure):
    """``struct ptrace_peeksiginfo_args``, ``linux/ptrace.h``."""

    _fields_ = [
        ("off", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("nr", ctypes.c_int32),
    ]


class ptrace_rseq_configuration(ctypes.Structure):
    """``struct ptrace_rseq_configuration``, ``linux/ptrace.h``."""

    _fields_ = [
        ("rseq_abi_pointer", ctypes.c_uint64),
        ("rseq_abi_size", ctypes.c_uint32),
        ("signature", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]


class ptrace_sud_config(ctypes.Structure):
    """``struct ptrace_sud_config``, ``linux/ptrace.h``."""

    _fields_ = [
        ("mode", ctypes.c_uint64),
        ("selector", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("len", ctypes.c_uint64),
    ]


PEEKSIGINFO_SHARED = 1
SIGINFO_BYTES = 128
_PEEKED = 32

_ARGTYPES = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

# SEIZE can sleep: it takes the lock that an execve(2) under way holds.
_ptrace_blocking = libc["ptrace"]
_ptrace_blocking.argtypes = _ARGTYPES
_ptrace_blocking.restype = ctypes.c_long

_ptrace = pylibc["ptrace"]
_ptrace.argtypes = _ARGTYPES
_ptrace.restype = ctypes.c_long


_syscall = pylibc["syscall"]
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_syscall.restype = ctypes.c_long


def seize(tid: int) -> None:
    """Make the thread *tid* a tracee of the calling thread, without stopping it.

    May block while the tracee's program is in execve(2).

    :raises OSError: ``ESRCH`` if there is no such thread, ``EPERM`` if it may not
        be traced, has a tracer already, or is exiting
    """
    check(_ptrace_blocking(Request.SEIZE, tid, None, None), "ptrace", "SEIZE", tid)


def interrupt(tid: int) -> None:
    """Ask the tracee to stop; it does so at its next return to user space.

    :raises OSError: ``ESRCH`` if the tracee is gone
    """
    check(_ptrace(Request.INTERRUPT, tid, None, None), "ptrace", "INTERRUPT", tid)


def stop_siginfo(tid: int) -> tuple[int, int] | None:
    """Return ``(si_signo, si_code)`` of the tracee's present stop.

    None while it runs, and when it is gone: the kernel says ``ESRCH`` to both.
    Needs no wait, so nobody can have taken the answer before us.
    """
    siginfo = siginfo_t()
    if _ptrace(Request.GETSIGINFO, tid, None, ctypes.addressof(siginfo)) == -1:
        if ctypes.get_errno() == errno.ESRCH:
            return None
        check(-1, "ptrace", "GETSIGINFO", tid)
    return siginfo.si_signo, siginfo.si_code


def getregset(tid: int, regset: int) -> bytes:
    """Return one register set of a stopped tracee, as the kernel lays it out.

    :raises OSError: ``ESRCH`` if the tracee is gone or running, ``EINVAL`` or
        ``ENODEV`` if the machine has no such set
    """
    iov = iovec(SCRATCH.address, SCRATCH_BYTES)
    check(
        _ptrace(Request.GETREGSET, tid, regset, ctypes.addressof(iov)),
        "ptrace",
        "GETREGSET",
        tid,
    )
    return ctypes.string_at(SCRATCH.address, iov.iov_len)


def setregset(tid: int, regset: int, content: bytes) -> None:
    """Give a stopped tracee another register set, all of it in one step.

    :raises OSError: ``ESRCH`` if the tracee is gone or running, ``EINVAL`` or ``EIO``
        for values that a thread cannot have
    """
    ctypes.memmove(SCRATCH.address, content, len(content))
    iov = iovec(SCRATCH.address, len(content))
    check(
        _ptrace(Request.SETREGSET, tid, regset, ctypes.addressof(iov)),
        "ptrace",
        "SETREGSET",
        tid,
    )


def setsigmask(tid: int, mask: int) -> None:
    """Block other signals in a stopped tracee, bit *n* - 1 for signal *n*.

    :raises OSError: ``ESRCH`` if the tracee is gone or running
    """
    wanted = ctypes.c_uint64(mask)
    check(
        _ptrace(Request.SETSIGMASK, tid, 8, ctypes.addressof(wanted)),
        "ptrace",
        "SETSIGMASK",
        tid,
    )


def setoptions(tid: int, options: Option) -> None:
    """Say which events stop a tracee that is stopped now.

    :raises OSError: ``ESRCH`` if the tracee is gone or running
    """
    check(_ptrace(Request.SETOPTIONS, tid, None, options), "ptrace", "SETOPTIONS", tid)


def resume(tid: int, signal: int = 0, *, to_system_call: bool = False) -> None:
    """Let a stopped tracee run on, with *signal* if it was about to get one.

    :param to_system_call: until the entry or the exit of the next system call
    :raises OSError: ``ESRCH`` if the tracee is gone or running
    """
    request = Request.SYSCALL if to_system_call else Request.CONT
    check(_ptrace(request, tid, None, signal), "ptrace", request.name, tid)


def getsigmask(tid: int) -> int:
    """Return the blocked signals of a stopped tracee, bit *n* - 1 for signal *n*.

    :raises OSError: ``ESRCH`` if the tracee is gone or running
    """
    mask = ctypes.c_uint64()
    check(
        _ptrace(Request.GETSIGMASK, tid, 8, ctypes.addressof(mask)),
        "ptrace",
        "GETSIGMASK",
        tid,
    )
    return mask.value


def peeksiginfo(tid: int, *, shared: bool) -> list[bytes]:
    """Return the ``siginfo_t`` of every signal that waits, and leave them there.

    :param shared: those sent to the process instead of the thread
    :raises OSError: ``ESRCH`` if the tracee is gone or running
    """
    flags = PEEKSIGINFO_SHARED if shared else 0
    arguments = ptrace_peeksiginfo_args(off=0, flags=flags, nr=_PEEKED)
    found: list[bytes] = []
    while True:
        count = check(
            _ptrace(
                Request.PEEKSIGINFO,
                tid,
                ctypes.addressof(arguments),
                SCRATCH.address,
            ),
            "ptrace",
            "PEEKSIGINFO",
            tid,
        )
        content = ctypes.string_at(SCRATCH.address, count * SIGINFO_BYTES)
        found += [
            content[at : at + SIGINFO_BYTES]
            for at in range(0, len(content), SIGINFO_BYTES)
        ]
        if count < _PEEKED:
            return found
        arguments.off += count


def get_rseq(tid: int) -> tuple[int, int, int, int]:
    """Return address, size, signature and flags of a stopped tracee's rseq area.

    :raises OSError: ``EIO`` or ``EINVAL`` if the kernel does not tell (before 5.13)
    """
    found = ptrace_rseq_configuration()
    check(
        _ptrace(
            Request.GET_RSEQ_CONFIGURATION,
            tid,
            ctypes.sizeof(found),
            ctypes.addressof(found),
        ),
        "ptrace",
        "GET_RSEQ_CONFIGURATION",
        tid,
    )
    return (
        found.rseq_abi_pointer,
        found.rseq_abi_size,
        found.signature,
        found.flags,
    )


def may_dispatch_calls(tid: int) -> bool:
    """Whether a stopped tracee may get a SIGSYS instead of a system call.

    By prctl(2), ``PR_SET_SYSCALL_USER_DISPATCH``; kernels before 6.4 do not tell.

    :raises OSError: ``ESRCH`` if the tracee is gone or running
    """
    found = ptrace_sud_config()
    size, place = ctypes.sizeof(found), ctypes.addressof(found)
    if _ptrace(Request.GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, place) == -1:
        if ctypes.get_errno() in (errno.EIO, errno.EINVAL):
            return True
        check(-1, "ptrace", "GET_SYSCALL_USER_DISPATCH_CONFIG", tid)
    return bool(found.mode)


def get_robust_list(tid: int, syscall: int) -> tuple[int, int]:
    """Return head and size of a thread's list of robust futexes.

    :param syscall: the number of get_robust_list(2) on this machine
    :raises OSError: ``ESRCH`` if the thread is gone, ``EPERM`` without rights
    """
    head, size = ctypes.c_uint64(), ctypes.c_size_t()
    check(
        _syscall(syscall, tid, ctypes.addressof(head), ctypes.addressof(size)),
        "get_robust_list",
        tid,
    )
    return head.value, size.value


def detach(tid: int, signal: int = 0) -> None:
    """Let a stopped tracee go, handing it *signal* if one was caught in flight.

    :raises OSError: ``ESRCH`` if the tracee is gone or not stopped
    """
    check(_ptrace(Request.DETACH, tid, None, signal), "ptrace", "DETACH", tid)
