"""Open file descriptors."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FdInfo:
    """One open file descriptor, ``proc_pid_fdinfo(5)``.

    :ivar fd: its number
    :ivar path: where ``/proc/PID/fd/N`` points
    :ivar flags: open flags, ``O_CLOEXEC`` included
    :ivar offset: file position in bytes
    """

    fd: int
    path: str
    flags: int
    offset: int
