"""Open file descriptors, and what waits in those of them that hold something."""

from dataclasses import dataclass
from typing import Annotated

from sandlock_async.model.descriptor_kinds import I32, Described


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FdDetails:
    """What a descriptor refers to.

    :ivar fd: its number
    :ivar what: one class for each kind
    :ivar same_as: the lowest number with the same open file description, that is file
        position and status flags, as after ``dup(2)``; None if there is no lower one,
        or if it could not be asked for
    """

    fd: Annotated[int, I32]
    what: Described
    same_as: Annotated[int, I32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PipeContent:
    """The bytes in a pipe both of whose ends the process holds.

    :ivar inode: which pipe
    :ivar data: the bytes, the first written first
    :ivar packets: lengths of the writes, if the pipe keeps them apart (``O_DIRECT``)
    """

    inode: int
    data: bytes
    packets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketContent:
    """What waits in a unix socket to be received.

    :ivar inode: which socket: that of the receiver
    :ivar messages: the first sent first; of a stream one at most
    """

    inode: int
    messages: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFd:
    """Why what waits in a descriptor is not in the image, or not all of it."""

    fd: Annotated[int, I32]
    reason: str
