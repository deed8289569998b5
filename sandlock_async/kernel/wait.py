"""``waitid(2)`` on one tracee, never blocking.

Options choose what may be taken: a stop report is ours to take, the exit report
of a thread-group leader belongs to its parent and is never touched.
"""

import ctypes
import errno
from enum import IntEnum, IntFlag

from sandlock_async.kernel.libc import check, pylibc
from sandlock_async.kernel.ptrace import siginfo_t

P_PID = 1


class Wait(IntFlag):
    """``W*`` options of ``linux/wait.h``."""

    WNOHANG = 1
    WSTOPPED = 2
    WEXITED = 4
    WALL = 0x40000000


_waitid = pylibc["waitid"]
_waitid.argtypes = (ctypes.c_int, ctypes.c_uint, ctypes.c_void_p, ctypes.c_int)
_waitid.restype = ctypes.c_int


class Child(IntEnum):
    """``CLD_*``: what a report says has happened, ``asm-generic/siginfo.h``."""

    EXITED = 1
    KILLED = 2
    DUMPED = 3


def take_stop_report(tid: int) -> None:
    """Consume the report of the tracee's stop, so that nobody else finds it.

    Without ``WEXITED`` the kernel cannot hand out an exit here. That somebody
    else had the report already (``ECHILD`` or nothing) is not an error.
    """
    siginfo = siginfo_t()
    options = Wait.WNOHANG | Wait.WSTOPPED | Wait.WALL
    _waitid(P_PID, tid, ctypes.addressof(siginfo), options)


def reap_thread(tid: int) -> bool:
    """Reap *tid*, a traced thread that is not its group's leader, if it is dead.

    Works from any thread of the tracer's process. An execve(2) of another thread
    of the group waits for just this.

    :return: whether it is gone, by our hand or before
    """
    siginfo = siginfo_t()
    options = Wait.WNOHANG | Wait.WEXITED | Wait.WALL
    result = _waitid(P_PID, tid, ctypes.addressof(siginfo), options)
    if result == -1:
        if ctypes.get_errno() == errno.ECHILD:
            return True
        check(result, "waitid", tid)
    # A ptrace-stop is reported as well, whatever the options say (wait_task_stopped
    # in kernel/exit.c): only these codes mean an end.
    return siginfo.si_signo != 0 and siginfo.si_code in (
        Child.EXITED,
        Child.KILLED,
        Child.DUMPED,
    )
