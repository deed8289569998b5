"""What an open file descriptor refers to: one class for each kind."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from sandlock_async.model.memory import FileIdentity

I32 = range(-(1 << 31), 1 << 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What every kind has.

    :ivar content: whether all that can be read from it is in the image
    """

    kind: ClassVar[str]

    content: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularFile(Descriptor):
    """A file of a file system.

    :ivar file: which one; None if it could not be looked at
    :ivar deleted: whether its name is gone
    """

    kind: ClassVar[str] = "file"

    file: FileIdentity | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory(Descriptor):
    """A directory."""

    kind: ClassVar[str] = "directory"

    file: FileIdentity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device(Descriptor):
    """A character or block device.

    :ivar block: whether it is a block device
    :ivar rdev: which device it is, as ``st_rdev``
    """

    kind: ClassVar[str] = "device"

    block: bool
    rdev: int
    file: FileIdentity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipe(Descriptor):
    """An end of a ``pipe(2)``, or both if it was opened again for both.

    :ivar inode: names the pipe; its content is under the same number
    :ivar read: whether it can be read from
    :ivar write: whether it can be written to
    :ivar packets: whether what is written here stays apart (``O_DIRECT``)
    :ivar peers: descriptors of the same process that are another end of it; empty
        if only others hold that
    """

    kind: ClassVar[str] = "pipe"

    inode: int
    read: bool
    write: bool
    packets: bool = False
    peers: tuple[Annotated[int, I32], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fifo(Descriptor):
    """A pipe with a name, ``fifo(7)``."""

    kind: ClassVar[str] = "fifo"

    read: bool
    write: bool
    file: FileIdentity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket(Descriptor):
    """A ``socket(2)``. What is None is not known, or there is no such thing.

    :ivar inode: names the socket; its content is under the same number
    :ivar family: ``unix``, ``inet``, ``inet6``, ``netlink``, ``packet``, or the
        kernel's name of a protocol
    :ivar type: ``stream``, ``dgram``, ``raw``, ``seqpacket``
    :ivar protocol: as in ``socket(2)``
    :ivar state: ``established``, ``listen``, … as ``ss(8)`` says; ``unconnected`` and
        ``connected`` for unix
    :ivar local: ``address:port``, or the path of a unix socket, ``@`` in front of an
        abstract one
    :ivar remote: the same of the other side
    :ivar peer: inode of the unix socket it is connected to; 0 if that is closed
    :ivar peers: descriptors of the same process that refer to that one
    :ivar in_flight: descriptors that wait in it to be received (``SCM_RIGHTS``)
    """

    kind: ClassVar[str] = "socket"

    inode: int
    family: str | None = None
    type: str | None = None
    protocol: int | None = None
    state: str | None = None
    local: str | None = None
    remote: str | None = None
    peer: int | None = None
    peers: tuple[Annotated[int, I32], ...] = ()
    in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFd(Descriptor):
    """An ``eventfd(2)``.

    :ivar count: what a read would give
    :ivar id: tells counters apart, as long as they last
    :ivar semaphore: ``EFD_SEMAPHORE``; None if the kernel does not say
    """

    kind: ClassVar[str] = "eventfd"

    count: int
    id: int | None = None
    semaphore: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFd(Descriptor):
    """A ``timerfd_create(2)``; times in nanoseconds.

    :ivar clockid: ``CLOCK_*``
    :ivar ticks: expirations that nobody has read yet
    :ivar settime_flags: ``TFD_TIMER_*``
    :ivar value_ns: until it expires; 0 if it is not armed
    :ivar interval_ns: to the next time; 0 if it is for once
    """

    kind: ClassVar[str] = "timerfd"

    clockid: Annotated[int, I32]
    ticks: int
    settime_flags: int
    value_ns: int
    interval_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalFd(Descriptor):
    """A ``signalfd(2)``.

    :ivar mask: signals it takes, bit *n* - 1 for signal *n*
    """

    kind: ClassVar[str] = "signalfd"

    mask: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpollTarget:
    """A descriptor that an epoll watches, ``epoll_ctl(2)``.

    :ivar fd: its number when it was added; it may mean something else by now
    :ivar events: ``EPOLL*``
    :ivar data: what ``epoll_wait(2)`` returns with it
    :ivar position: file position, as a u64; None if the kernel does not say, like
        the next two
    :ivar inode: of the file
    :ivar device: of the file: major number << 20 | minor number
    """

    fd: Annotated[int, I32]
    events: int
    data: int
    position: int | None = None
    inode: int | None = None
    device: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoll(Descriptor):
    """An ``epoll(7)``."""

    kind: ClassVar[str] = "epoll"

    targets: tuple[EpollTarget, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemFd(Descriptor):
    """A ``memfd_create(2)``. What is mapped of it is among the segments.

    :ivar name: it was made with
    :ivar file: which one, with its size; None if it could not be looked at
    :ivar seals: ``F_SEAL_*``; None if not known
    """

    kind: ClassVar[str] = "memfd"

    name: str
    file: FileIdentity | None = None
    seals: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InotifyWatch:
    """A watch, ``inotify_add_watch(2)``.

    :ivar wd: its number
    :ivar inode: of the file
    :ivar device: of the file: major number << 20 | minor number
    :ivar mask: ``IN_*``
    """

    wd: int
    inode: int
    device: int
    mask: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inotify(Descriptor):
    """An ``inotify(7)``; events that wait in it are not in the image."""

    kind: ClassVar[str] = "inotify"

    watches: tuple[InotifyWatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pty(Descriptor):
    """An end of a ``pty(7)``.

    :ivar index: the number in ``/dev/pts``
    :ivar master: whether it is the master's end
    """

    kind: ClassVar[str] = "pty"

    index: int
    master: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PidFd(Descriptor):
    """A ``pidfd_open(2)``.

    :ivar pid: the process it refers to; -1 if that is gone
    """

    kind: ClassVar[str] = "pidfd"

    pid: Annotated[int, I32]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFaultFd(Descriptor):
    """A ``userfaultfd(2)``."""

    kind: ClassVar[str] = "userfaultfd"


@dataclass(frozen=True, slots=True, kw_only=True)
class IoUring(Descriptor):
    """An ``io_uring_setup(2)``."""

    kind: ClassVar[str] = "io_uring"


@dataclass(frozen=True, slots=True, kw_only=True)
class Other(Descriptor):
    """Something else, or a file that could not be looked at any more.

    :ivar name: where its link points
    """

    kind: ClassVar[str] = "other"

    name: str


Described = (
    RegularFile
    | Directory
    | Device
    | Pipe
    | Fifo
    | Socket
    | EventFd
    | TimerFd
    | SignalFd
    | Epoll
    | MemFd
    | Inotify
    | Pty
    | PidFd
    | UserFaultFd
    | IoUring
    | Other
)
"""Any of them."""
