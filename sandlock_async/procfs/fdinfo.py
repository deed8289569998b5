r"""``/proc/PID/fdinfo/N``, ``proc_pid_fdinfo(5)``: what all kinds have, and what one has.

Separators differ: ``pos:\t5``, ``eventfd-count:      5``. So does the base of numbers:
``fs/*.c``, the functions called ``*_show_fdinfo``.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from sandlock_async.model import (
    Described,
    Epoll,
    EpollTarget,
    EventFd,
    Inotify,
    InotifyWatch,
    IoUring,
    Other,
    PidFd,
    SignalFd,
    TimerFd,
    UserFaultFd,
)

_U64 = (1 << 64) - 1
_NANOSECONDS = 10**9
_PREFIX = b"anon_inode:"


@lru_cache(maxsize=512)  # asked again and again, of each descriptor
def parse_fdinfo(content: bytes) -> tuple[int, int]:
    """Return ``(flags, offset)``: open flags (octal in the file), position in bytes.

    A position may be any ``loff_t``, as in ``/proc/PID/mem``: negative ones, which the
    kernel prints with their sign, are returned as the ``u64`` they are there.

    :raises ValueError: if either is missing
    """
    flags = offset = None
    for line in content.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"flags":
            flags = int(value, 8)
        elif name == b"pos":
            offset = int(value) & _U64
    if flags is None or offset is None:
        raise ValueError(f"no flags or pos in fdinfo: {content!r}")

    return flags, offset


def parse_number(content: bytes, name: bytes) -> int | None:
    """Return a decimal field such as ``ino``, ``tty-index``, ``scm_fds``; None without.

    :raises ValueError: if it is no number
    """
    value = _fields(content).get(name)
    return None if value is None else int(value)


def parse_anonymous(link: bytes, content: bytes) -> Described:
    """Return what a descriptor without a file or a socket is.

    :param link: where it points: ``anon_inode:[eventfd]``, ``anon_inode:inotify``, …
    :raises ValueError: if its fdinfo lacks what the kind has
    """
    name = link.removeprefix(_PREFIX).strip(b"[]")
    if name == b"pidfd" or link.startswith(b"pidfd:"):
        return _pidfd(content)
    if name in _KINDS and link.startswith(_PREFIX):
        return _KINDS[name](content)
    return Other(name=link.decode(errors="replace"))


def _eventfd(content: bytes) -> EventFd:
    # eventfd-count:                5      (hexadecimal)
    # eventfd-id: 1
    # eventfd-semaphore: 0                 since Linux 6.5
    fields = _fields(content)
    ident = fields.get(b"eventfd-id")
    semaphore = fields.get(b"eventfd-semaphore")
    return EventFd(
        content=True,
        count=int(_of(fields, b"eventfd-count"), 16),
        id=None if ident is None else int(ident),
        semaphore=None if semaphore is None else int(semaphore) != 0,
    )


def _timerfd(content: bytes) -> TimerFd:
    # settime flags: 01                    (octal)
    # it_value: (0, 49406829)              seconds and nanoseconds
    fields = _fields(content)
    return TimerFd(
        content=True,
        clockid=int(_of(fields, b"clockid")),
        ticks=int(_of(fields, b"ticks")),
        settime_flags=int(_of(fields, b"settime flags"), 8),
        value_ns=_timespec(_of(fields, b"it_value")),
        interval_ns=_timespec(_of(fields, b"it_interval")),
    )


def _timespec(value: bytes) -> int:
    seconds, _, nanoseconds = value.strip(b"()").partition(b",")
    return int(seconds) * _NANOSECONDS + int(nanoseconds)


def _signalfd(content: bytes) -> SignalFd:
    return SignalFd(content=True, mask=int(_of(_fields(content), b"sigmask"), 16))


_EPOLL_TARGET = re.compile(
    rb"^tfd: *(\d+) events: *([0-9a-f]+) data: *([0-9a-f]+)"
    rb"(?: +pos: *(-?\d+) ino: *([0-9a-f]+) sdev: *([0-9a-f]+))?",
    re.MULTILINE,
)


def _epoll(content: bytes) -> Epoll:
    # tfd:        5 events:       1d data:  5  pos:0 ino:61af sdev:7
    return Epoll(
        content=True,
        targets=tuple(
            EpollTarget(
                fd=int(tfd),
                events=int(events, 16),
                data=int(data, 16),
                position=int(position) & _U64 if position else None,
                inode=int(inode, 16) if inode else None,
                device=int(device, 16) if device else None,
            )
            for tfd, events, data, position, inode, device in _EPOLL_TARGET.findall(
                content
            )
        ),
    )


_WATCH = re.compile(
    rb"^inotify wd:([0-9a-f]+) ino:([0-9a-f]+) sdev:([0-9a-f]+) mask:([0-9a-f]+)",
    re.MULTILINE,
)


def _inotify(content: bytes) -> Inotify:
    return Inotify(
        watches=tuple(
            InotifyWatch(
                wd=int(wd, 16),
                inode=int(inode, 16),
                device=int(device, 16),
                mask=int(mask, 16),
            )
            for wd, inode, device, mask in _WATCH.findall(content)
        )
    )


def _pidfd(content: bytes) -> PidFd:
    return PidFd(content=True, pid=int(_of(_fields(content), b"Pid")))


_KINDS: dict[bytes, Callable[[bytes], Described]] = {
    b"eventfd": _eventfd,
    b"timerfd": _timerfd,
    b"signalfd": _signalfd,
    b"eventpoll": _epoll,
    b"inotify": _inotify,
    b"userfaultfd": lambda _: UserFaultFd(),
    b"io_uring": lambda _: IoUring(),
}


@lru_cache(maxsize=512)
def _fields(content: bytes) -> Mapping[bytes, bytes]:
    pairs = (line.partition(b":") for line in content.split(b"\n"))
    return {name: value.strip() for name, separator, value in pairs if separator}


def _of(fields: Mapping[bytes, bytes], name: bytes) -> bytes:
    try:
        return fields[name]
    except KeyError:
        raise ValueError(f"no {name.decode()} in fdinfo: {fields}") from None
