"""``userfaultfd(2)``."""

import ctypes
import os

from sandlock_async.kernel.libc import check, pylibc

_syscall = pylibc["syscall"]
_syscall.argtypes = (ctypes.c_long, ctypes.c_long)
_syscall.restype = ctypes.c_long


def userfaultfd(number: int) -> int:
    """Return a new userfaultfd, for faults of the kernel's own, too.

    :param number: of ``userfaultfd(2)`` on this machine
    :raises OSError: ``EPERM`` without ``CAP_SYS_PTRACE`` unless
        ``vm.unprivileged_userfaultfd`` is 1; ``ENOSYS`` where it is not known
    """
    return check(_syscall(number, os.O_CLOEXEC | os.O_NONBLOCK), "userfaultfd")
