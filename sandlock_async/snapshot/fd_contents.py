"""What waits in pipes and unix sockets, read under the freeze; nothing is taken out.

A process that has neither pays nothing. Each look needs a copy of the descriptor,
which is closed at once: a copy that outlived the freeze would keep an end open that
the program closes, and its peer would wait for an end of file.

Only what the kernel answers at once is asked for, and only what the captured processes
hold themselves: of a pipe both ends; of a unix socket what waits for it to be received.
"""

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from sandlock_async.kernel import descriptors, files
from sandlock_async.procfs.fdinfo import parse_fdinfo
from sandlock_async.snapshot.facts import RawFd

PIPE = b"pipe:["
SOCKET = b"socket:["

_EITHER = (PIPE, SOCKET)

UNIX = b"\nscm_fds:"
"""Only unix sockets have that line in fdinfo, and from Linux 5.10 on all have."""

_NOTHING = (errno.EINVAL, errno.ENOTCONN, errno.EAGAIN)
"""What a socket says that listens or has no connection, and a pipe that is empty."""


class RawContent(NamedTuple):
    """What waits in a pipe or a socket. Made under the freeze, so no dataclass.

    :ivar pieces: packets, messages, or all of it in one
    :ivar missing: bytes that are there but not among them
    :ivar error: errno of what went wrong, 0 if nothing did
    """

    raw: RawFd
    pieces: list[bytes]
    missing: int = 0
    error: int = 0


def read_contents(
    company: Sequence[tuple[int, Sequence[RawFd]]],
) -> list[list[RawContent]]:
    """Return what waits in the pipes and unix sockets of processes that stand still.

    Of each process, what is not found with one before it; those in which nothing
    waits are left out.

    :param company: pidfd and descriptors of each
    :raises OSError: ``ESRCH`` if one was killed meanwhile
    """
    if not any(raw.link.startswith(_EITHER) for _, fds in company for raw in fds):
        return [[] for _ in company]  # most often
    chosen = choose([fds for _, fds in company])
    found: list[list[RawContent]] = []
    with _PipeReader() as reader:
        for (pidfd, _), (pipes, sockets) in zip(company, chosen, strict=True):
            there = [_read(pidfd, raw, reader.read) for raw in pipes]
            there += [_read(pidfd, raw, _peek) for raw in sockets]
            found.append(
                [this for this in there if this.pieces or this.missing or this.error]
            )
    return found


def choose(
    company: Sequence[Sequence[RawFd]],
) -> list[tuple[list[RawFd], list[RawFd]]]:
    """Return a readable end of each pipe that is held whole, and each unix socket.

    Of each process of the company, what none before it has.
    """
    writable = {
        raw.link
        for fds in company
        for raw in fds
        if raw.link.startswith(PIPE) and access(parse_fdinfo(raw.fdinfo)[0])[1]
    }
    seen: set[bytes] = set()
    chosen: list[tuple[list[RawFd], list[RawFd]]] = []
    for fds in company:
        pipes: list[RawFd] = []
        sockets: list[RawFd] = []
        for raw in fds:
            if raw.link in seen:
                continue
            if raw.link in writable and access(parse_fdinfo(raw.fdinfo)[0])[0]:
                seen.add(raw.link)
                pipes.append(raw)
            elif raw.link.startswith(SOCKET) and UNIX in raw.fdinfo:
                seen.add(raw.link)
                sockets.append(raw)
        chosen.append((pipes, sockets))
    return chosen


def access(flags: int) -> tuple[bool, bool]:
    """Return whether an open file can be read from, and written to."""
    mode = flags & os.O_ACCMODE
    return mode != os.O_WRONLY, mode != os.O_RDONLY


def _read(
    pidfd: int, raw: RawFd, look: Callable[[int], tuple[list[bytes], int]]
) -> RawContent:
    try:
        copy = descriptors.getfd(pidfd, raw.fd)
        try:
            return RawContent(raw, *look(copy))
        finally:
            files.close_fd(copy)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise
        number = 0 if error.errno in _NOTHING else error.errno or errno.EIO
        return RawContent(raw, [], error=number)


def _peek(fd: int) -> tuple[list[bytes], int]:
    kind = descriptors.socket_type(fd)
    if kind == socket.SOCK_STREAM:
        data = descriptors.peek_stream(fd)
        return ([data] if data else []), 0
    connected = kind == socket.SOCK_SEQPACKET
    return descriptors.peek_messages(fd, connected=connected), 0


class _PipeReader:
    """Looks into pipes, by way of one of ours that is made when there is something."""

    def __init__(self) -> None:
        self._pipe: descriptors.PipeCopy | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is not None:
            self._pipe.close()

    def read(self, fd: int) -> tuple[list[bytes], int]:
        """Return the packets in a pipe, and how many bytes could not be had."""
        count = descriptors.waiting_bytes(fd)
        if not count:
            return [], 0
        if self._pipe is None:
            self._pipe = descriptors.PipeCopy()
        pieces = self._pipe.copy(fd, count)
        return pieces, count - sum(map(len, pieces))
