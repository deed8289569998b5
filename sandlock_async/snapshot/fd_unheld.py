"""Which descriptors an image cannot hold as they are, and why."""

import os

from sandlock_async.model import (
    Described,
    Device,
    Fifo,
    Inotify,
    IoUring,
    MemFd,
    Other,
    Pipe,
    Pty,
    RegularFile,
    Socket,
    UserFaultFd,
)
from sandlock_async.snapshot.facts import read_fds
from sandlock_async.snapshot.fd_details import describe_fds
from sandlock_async.snapshot.fd_late import read_late
from sandlock_async.target import Target

_MEM_MAJOR = 1  # /dev/null, /dev/zero, /dev/urandom, …: linux/major.h

_LEFT_OUT: dict[type[Described], str] = {
    Fifo: "a named pipe",
    Inotify: "events that wait in an inotify",
    IoUring: "an io_uring",
    MemFd: "a memfd, but for what is mapped of it",
    Pty: "a terminal",
    UserFaultFd: "a userfaultfd",
}


def find_unheld(target: Target) -> dict[int, str]:
    """Return what an image will not hold of the open descriptors, by number.

    Only looked at from outside: what waits in pipes and sockets is not asked for.

    :raises OSError: ``ENOENT`` or ``ESRCH`` if the process is gone
    """
    fds = read_fds(target.pid)
    found = describe_fds(fds, [], read_late(target, fds, copying=False))
    unheld = {this.fd: why_unheld(this.what) for this in found.details}
    return {fd: reason for fd, reason in unheld.items() if reason}


def why_unheld(what: Described) -> str:
    """Return what of an open file is not in an image; empty if all that matters is."""
    if isinstance(what, Socket):
        return _socket(what)
    if isinstance(what, Pipe):
        return "" if what.content else "a pipe to or from another process"
    if isinstance(what, RegularFile):
        return "a deleted file" if what.deleted else ""
    if isinstance(what, Device):
        if not what.block and os.major(what.rdev) == _MEM_MAJOR:
            return ""
        return f"a device ({os.major(what.rdev)}:{os.minor(what.rdev)})"
    if isinstance(what, Other):
        return what.name
    return _LEFT_OUT.get(type(what), "")


def _socket(what: Socket) -> str:
    if what.in_flight:
        return f"{what.in_flight} descriptors in flight (SCM_RIGHTS)"
    if what.content or what.state in ("listen", "close", "unconnected"):
        return ""
    kind = " ".join(filter(None, (what.family, what.type)))
    to = f" to {what.remote}" if what.remote else ""
    return f"a socket ({kind or 'of a kind not known'}){to}"
