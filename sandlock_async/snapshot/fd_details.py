"""What each descriptor is, put together from what was read under and after the freeze."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sandlock_async.model import (
    Described,
    Device,
    Directory,
    FdDetails,
    Fifo,
    MemFd,
    Other,
    Pipe,
    PipeContent,
    Pty,
    RegularFile,
    SkippedFd,
    Socket,
    SocketContent,
)
from sandlock_async.procfs.fdinfo import parse_anonymous, parse_fdinfo, parse_number
from sandlock_async.procfs.net import SocketEntry
from sandlock_async.snapshot.facts import RawFd
from sandlock_async.snapshot.fd_contents import PIPE, SOCKET, RawContent, access
from sandlock_async.snapshot.fd_late import (
    MEMFD,
    LateFds,
    Looked,
    SocketKind,
    inode_of,
)
from sandlock_async.snapshot.mapped_files import identity_of

_PTY_SLAVE_MAJOR = 136  # UNIX98_PTY_SLAVE_MAJOR, linux/major.h
_UNKNOWN = SocketKind("", None, None)
_DELETED = b" (deleted)"


@dataclass(frozen=True, slots=True, kw_only=True)
class FdPicture:
    """The descriptors of a process, and what waits in them.

    :ivar details: by number
    """

    details: tuple[FdDetails, ...]
    pipes: tuple[PipeContent, ...]
    sockets: tuple[SocketContent, ...]
    skipped: tuple[SkippedFd, ...]


def describe_fds(
    fds: Sequence[RawFd],
    contents: Sequence[RawContent],
    late: LateFds,
    others: Sequence[RawFd] = (),
) -> FdPicture:
    """Return what the descriptors are.

    :param fds: as procfs showed them under the freeze
    :param contents: what waited in them
    :param late: what was looked up after the thaw
    :param others: descriptors of the processes that were captured together with it
    """
    ends = _Ends(fds, others)
    failed = {this.raw.link for this in contents if this.error or this.missing}
    described: dict[int, Described] = {}
    skipped = [
        SkippedFd(fd=this.raw.fd, reason=_reason(this))
        for this in contents
        if this.error or this.missing
    ]
    for raw in fds:
        if raw.link.startswith(PIPE):
            described[raw.fd] = ends.pipe(raw, whole=raw.link not in failed)
        elif raw.link.startswith(SOCKET):
            what = ends.socket(raw, late, whole=raw.link not in failed)
            described[raw.fd] = what
            if what.in_flight:
                reason = f"{what.in_flight} descriptors in flight (SCM_RIGHTS)"
                skipped.append(SkippedFd(fd=raw.fd, reason=reason))
        else:
            described[raw.fd] = _describe(raw, late)
    sockets = {
        what.inode: what for what in described.values() if isinstance(what, Socket)
    }
    found = [this for this in contents if this.pieces]
    return FdPicture(
        details=tuple(
            FdDetails(fd=fd, what=what, same_as=late.same.get(fd))
            for fd, what in described.items()
        ),
        pipes=tuple(
            _pipe_content(this, ends)
            for this in found
            if this.raw.link.startswith(PIPE) and not this.missing
        ),
        sockets=tuple(
            SocketContent(inode=inode_of(this.raw.link), messages=tuple(this.pieces))
            for this in found
            if this.raw.link.startswith(SOCKET)
            if not ends.is_outside(sockets[inode_of(this.raw.link)])
        ),
        skipped=tuple(sorted(skipped, key=lambda this: this.fd)),
    )


def _reason(this: RawContent) -> str:
    if this.missing:
        return (
            f"{this.missing} bytes in it do not fit a pipe of ours: "
            "fs.pipe-max-size or fs.pipe-user-pages-soft is too low"
        )
    return f"it cannot be read: {os.strerror(this.error)}"


def _describe(raw: RawFd, late: LateFds) -> Described:
    looked = late.files.get(raw.fd)
    if raw.link.startswith(MEMFD) and raw.link.endswith(_DELETED):
        name = raw.link.removeprefix(MEMFD).removesuffix(_DELETED)
        return MemFd(
            name=name.decode(errors="replace"),
            file=None if looked is None else identity_of(looked.status),
            seals=late.seals.get(raw.fd),
        )
    try:
        index = parse_number(raw.fdinfo, b"tty-index")
        if index is not None:
            return Pty(index=index, master=True)
        if not raw.link.startswith(b"/"):
            return parse_anonymous(raw.link, raw.fdinfo)
    except ValueError:  # a kernel that prints something else
        looked = None
    if looked is None:
        return Other(name=raw.link.decode(errors="replace"))
    return _describe_file(raw, looked)


def _describe_file(raw: RawFd, looked: Looked) -> Described:
    status = looked.status
    file = identity_of(status)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        return RegularFile(file=file, deleted=looked.deleted)
    if kind == stat.S_IFDIR:
        return Directory(file=file)
    if kind == stat.S_IFIFO:
        read, write = access(parse_fdinfo(raw.fdinfo)[0])
        return Fifo(read=read, write=write, file=file)
    if kind == stat.S_IFCHR and os.major(status.st_rdev) == _PTY_SLAVE_MAJOR:
        return Pty(index=os.minor(status.st_rdev), master=False)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        return Device(block=kind == stat.S_IFBLK, rdev=status.st_rdev, file=file)
    return Other(name=raw.link.decode(errors="replace"))


def _pipe_content(this: RawContent, ends: "_Ends") -> PipeContent:
    packets = len(this.pieces) > 1 or ends.keeps_packets(this.raw.link)
    return PipeContent(
        inode=inode_of(this.raw.link),
        data=b"".join(this.pieces),
        packets=tuple(map(len, this.pieces)) if packets else (),
    )


class _Ends:
    """Which descriptors refer to which pipe or socket, and how."""

    def __init__(self, fds: Sequence[RawFd], others: Sequence[RawFd]) -> None:
        self._ways: dict[bytes, tuple[bool, bool]] = {}
        for raw in (*fds, *others):
            if raw.link.startswith((PIPE, SOCKET)):
                read, write = access(parse_fdinfo(raw.fdinfo)[0])
                reads, writes = self._ways.get(raw.link, (False, False))
                self._ways[raw.link] = (read or reads, write or writes)
        self._flags: dict[bytes, dict[int, int]] = {}
        for raw in fds:
            if raw.link.startswith((PIPE, SOCKET)):
                flags, _ = parse_fdinfo(raw.fdinfo)
                self._flags.setdefault(raw.link, {})[raw.fd] = flags

    def keeps_packets(self, link: bytes) -> bool:
        """Whether writes to a pipe stay apart."""
        return any(flags & os.O_DIRECT for flags in self._flags[link].values())

    def is_outside(self, what: Socket) -> bool:
        """Whether it is connected to a socket that no captured process holds."""
        if not what.peer:
            return False
        return b"socket:[%d]" % what.peer not in self._ways

    def pipe(self, raw: RawFd, *, whole: bool) -> Pipe:
        """Return an end of a pipe.

        :param whole: whether its content could be read, if it was tried
        """
        held = self._flags[raw.link]
        ways = {fd: access(flags) for fd, flags in held.items()}
        read, write = ways[raw.fd]
        return Pipe(
            content=all(self._ways[raw.link]) and whole,
            inode=inode_of(raw.link),
            read=read,
            write=write,
            packets=bool(held[raw.fd] & os.O_DIRECT),
            peers=tuple(
                fd
                for fd, (reads, writes) in ways.items()
                if fd != raw.fd and ((read and writes) or (write and reads))
            ),
        )

    def socket(self, raw: RawFd, late: LateFds, *, whole: bool) -> Socket:
        """Return a socket.

        :param whole: whether its content could be read, if it was tried
        """
        inode = inode_of(raw.link)
        entry = late.entries.get(inode, SocketEntry(inode))
        in_flight = parse_number(raw.fdinfo, b"scm_fds")
        is_unix = in_flight is not None
        unknown = SocketKind("unix", None, 0) if is_unix else _UNKNOWN
        kind = late.kinds.get(inode, unknown)
        peer = late.peers.get(inode)
        other = self._flags.get(b"socket:[%d]" % peer, {}) if peer else {}
        found = Socket(
            inode=inode,
            family=kind.family or None,
            type=kind.type or entry.type,
            protocol=entry.protocol if kind.protocol is None else kind.protocol,
            state=entry.state,
            local=entry.local,
            remote=_remote(entry, late, peer),
            peer=peer,
            peers=tuple(other),
            in_flight=in_flight or 0,
        )
        inside = is_unix and not self.is_outside(found) and found.state != "listen"
        return replace(found, content=inside and whole and not in_flight)


def _remote(entry: SocketEntry, late: LateFds, peer: int | None) -> str | None:
    if not peer:
        return entry.remote
    other = late.entries.get(peer)
    return None if other is None else other.local
