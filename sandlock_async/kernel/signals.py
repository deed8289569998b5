"""``sigaction(2)`` on SIGCHLD: the flag that Python's own signal module hides."""

import ctypes
import signal

from sandlock_async.kernel.libc import check, pylibc

SA_NOCLDSTOP = 1


class sigaction(ctypes.Structure):
    """``struct sigaction`` of the C library (x86-64, aarch64, riscv64)."""

    _fields_ = [
        ("sa_handler", ctypes.c_void_p),
        ("sa_mask", ctypes.c_byte * 128),
        ("sa_flags", ctypes.c_int),
        ("sa_restorer", ctypes.c_void_p),
    ]


_sigaction = pylibc["sigaction"]
_sigaction.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_sigaction.restype = ctypes.c_int


def child_stops_silenced() -> bool:
    """Whether SIGCHLD is raised only when a child ends (``SA_NOCLDSTOP``)."""
    return bool(_current().sa_flags & SA_NOCLDSTOP)


def silence_child_stops(*, silent: bool) -> None:
    """Set or clear ``SA_NOCLDSTOP`` on SIGCHLD; the handler stays what it is."""
    action = _current()
    if silent:
        action.sa_flags |= SA_NOCLDSTOP
    else:
        action.sa_flags &= ~SA_NOCLDSTOP
    check(
        _sigaction(signal.SIGCHLD, ctypes.addressof(action), None),
        "sigaction",
        "SIGCHLD",
    )


def _current() -> sigaction:
    action = sigaction()
    check(
        _sigaction(signal.SIGCHLD, None, ctypes.addressof(action)),
        "sigaction",
        "SIGCHLD",
    )
    return action
