"""What is looked up of descriptors right after the thaw, so that no freeze waits for it.

The kind, the link, flags, positions and everything in fdinfo are of the frozen moment
already. Read here is what a program cannot change of an open file (its inode, the type
of a socket, whether two descriptors share it), and what is of the outside world rather
than of the process (sizes of files, addresses of connections). A descriptor that has
come to mean something else meanwhile is told by its link and inode, and left out.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path
from typing import NamedTuple, TypeVar

from sandlock_async.kernel import descriptors, files
from sandlock_async.procfs.fdinfo import parse_fdinfo, parse_number
from sandlock_async.procfs.net import (
    TABLES,
    SocketEntry,
    encode_peers_request,
    parse_peers,
)
from sandlock_async.snapshot.facts import RawFd
from sandlock_async.snapshot.fd_contents import SOCKET, UNIX
from sandlock_async.target import Target

_T = TypeVar("_T")

MEMFD = b"/memfd:"
_F_GET_SEALS = 1034  # linux/fcntl.h
_NETLINK_SOCK_DIAG = 4  # linux/netlink.h
_ANSWER_BYTES = 1 << 16
_ANSWER_S = 2.0
_UNIX_TYPES: dict[int, str] = {
    socket.SOCK_STREAM: "stream",
    socket.SOCK_DGRAM: "dgram",
    socket.SOCK_SEQPACKET: "seqpacket",
}


class SocketKind(NamedTuple):
    """The arguments of ``socket(2)``, as far as they are known."""

    family: str
    type: str | None
    protocol: int | None


_PROTOCOLS = {
    b"TCP": SocketKind("inet", "stream", 6),
    b"TCPv6": SocketKind("inet6", "stream", 6),
    b"UDP": SocketKind("inet", "dgram", 17),
    b"UDPv6": SocketKind("inet6", "dgram", 17),
    b"UDP-Lite": SocketKind("inet", "dgram", 136),
    b"UDPLITEv6": SocketKind("inet6", "dgram", 136),
    b"RAW": SocketKind("inet", "raw", None),
    b"RAWv6": SocketKind("inet6", "raw", None),
    b"PING": SocketKind("inet", "dgram", 1),
    b"PINGv6": SocketKind("inet6", "dgram", 58),
    b"MPTCP": SocketKind("inet", "stream", 262),
    b"MPTCPv6": SocketKind("inet6", "stream", 262),
    b"NETLINK": SocketKind("netlink", None, None),
    b"PACKET": SocketKind("packet", None, None),
}
"""By ``struct proto.name`` of the kernel."""


class Looked(NamedTuple):
    """What a look at a file gave.

    :ivar deleted: whether its name is gone
    """

    status: os.stat_result
    deleted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LateFds:
    """What was looked up, by descriptor or by the inode of a socket.

    :ivar peers: inodes of unix sockets that are connected to one another; 0 if the
        other one is closed. Empty if they could not be asked for
    :ivar same: the lowest descriptor with the same open file description
    """

    files: Mapping[int, Looked]
    seals: Mapping[int, int]
    kinds: Mapping[int, SocketKind]
    entries: Mapping[int, SocketEntry]
    peers: Mapping[int, int]
    same: Mapping[int, int]


def read_late(target: Target, fds: Sequence[RawFd], *, copying: bool = True) -> LateFds:
    """Look up what can be had of the descriptors of the running target.

    Whatever cannot be had, because the target has closed it or ended, is left out.

    :param copying: ask copies of descriptors for the rest: types of unix sockets, seals
    """
    kinds = dict(_socket_kinds(target, fds, copying=copying))
    wanted = {inode_of(raw.link) for raw in fds if raw.link.startswith(SOCKET)}
    families = {kind.family for kind in kinds.values()}
    unknown = not wanted <= set(kinds)
    entries = dict(_entries(target.pid, wanted, None if unknown else families))
    at_home = "unix" in families and _same_network(target.pid)
    return LateFds(
        files=dict(_look(target.pid, fds)),
        seals=dict(_seals(target.pidfd, fds)) if copying else {},
        kinds=kinds,
        entries=entries,
        peers=_unix_peers() if at_home else {},
        same=_shared(target, fds),
    )


def inode_of(link: bytes) -> int:
    """Return the number in ``pipe:[…]`` or ``socket:[…]``."""
    return int(link.partition(b"[")[2].rstrip(b"]"))


# -- files ---------------------------------------------------------------------


def _look(pid: int, fds: Sequence[RawFd]) -> Iterator[tuple[int, Looked]]:
    for raw in fds:
        if not raw.link.startswith(b"/"):
            continue
        place = f"/proc/{pid}/fd/{raw.fd}"
        try:
            status = os.stat(place)
            if files.read_link(place) != raw.link:
                continue
        except OSError:
            continue  # closed meanwhile, or no rights
        if parse_number(raw.fdinfo, b"ino") in (None, status.st_ino):
            yield raw.fd, Looked(status, _is_deleted(raw.link, status))


def _is_deleted(link: bytes, status: os.stat_result) -> bool:
    if not link.endswith(b" (deleted)"):
        return False
    try:
        return not os.path.samestat(os.stat(link, follow_symlinks=False), status)
    except OSError:
        return True


def _seals(pidfd: int, fds: Sequence[RawFd]) -> Iterator[tuple[int, int]]:
    for raw in fds:
        if not raw.link.startswith(MEMFD):
            continue
        inode = parse_number(raw.fdinfo, b"ino")
        seals = _ask(pidfd, raw.fd, inode, _get_seals)
        if seals is not None:
            yield raw.fd, seals


def _get_seals(fd: int) -> int:
    return descriptors.fcntl(fd, _F_GET_SEALS)


# -- sockets -------------------------------------------------------------------


def _socket_kinds(
    target: Target, fds: Sequence[RawFd], *, copying: bool
) -> Iterator[tuple[int, SocketKind]]:
    sockets = {inode_of(raw.link): raw for raw in fds if raw.link.startswith(SOCKET)}
    for inode, raw in sockets.items():
        if UNIX in raw.fdinfo:
            number = (
                _ask(target.pidfd, raw.fd, inode, descriptors.socket_type)
                if copying
                else None
            )
            kind = None if number is None else _UNIX_TYPES.get(number)
            yield inode, SocketKind("unix", kind, 0)
        else:
            # No copy: that would give the socket our own class of traffic, where
            # cgroups have such (net_cls, net_prio), for as long as it lives.
            protocol = _protocol_name(target.pid, raw)
            if protocol is not None:
                name = protocol.decode(errors="replace")
                yield inode, _PROTOCOLS.get(protocol, SocketKind(name, None, None))


def _protocol_name(pid: int, raw: RawFd) -> bytes | None:
    place = f"/proc/{pid}/fd/{raw.fd}"
    try:
        name = os.getxattr(place, "system.sockprotoname")
        return name.rstrip(b"\0") if files.read_link(place) == raw.link else None
    except OSError:
        return None


def _entries(
    pid: int, wanted: set[int], families: set[str] | None
) -> Iterator[tuple[int, SocketEntry]]:
    """Yield what the tables of the target's network namespace say of its sockets.

    :param families: which may occur; None for any
    """
    left = set(wanted)
    for name, (family, parse) in TABLES.items():
        if not left or (families is not None and family not in families):
            continue
        try:
            for entry in parse(Path(f"/proc/{pid}/net/{name}").read_bytes()):
                if entry.inode in left:
                    left.discard(entry.inode)
                    yield entry.inode, entry
        except (OSError, ValueError):
            continue  # no such protocol in this kernel, or no rights


def _same_network(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/net").samefile("/proc/thread-self/ns/net")
    except OSError:
        return False


def _unix_peers() -> dict[int, int]:
    peers: dict[int, int] = {}
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    try:
        with socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG) as link:
            link.settimeout(_ANSWER_S)
            link.send(encode_peers_request())
            last = False
            while not last:
                more, last = parse_peers(link.recv(_ANSWER_BYTES))
                peers.update(more)
    except (OSError, ValueError):
        return {}  # a kernel without CONFIG_UNIX_DIAG
    return peers


# -- open file descriptions ----------------------------------------------------


def _shared(target: Target, fds: Sequence[RawFd]) -> dict[int, int]:
    """Return the lowest descriptor of the same open file description, by descriptor.

    Only those can be the same whose links and positions are.
    """
    alike: dict[tuple[bytes, int], list[RawFd]] = {}
    for raw in fds:
        position = parse_fdinfo(raw.fdinfo)[1]
        alike.setdefault((raw.link, position), []).append(raw)
    shared: dict[int, int] = {}
    for group in alike.values():
        numbers = [raw.fd for raw in group if len(group) > 1 and _is_same(target, raw)]
        try:
            shared.update(_find_equal(numbers, _comparer(target)))
        except OSError:
            continue  # no rights, no CONFIG_KCMP, or closed in this moment
    return shared


def _comparer(target: Target) -> Callable[[int, int], int]:
    def compare(one: int, other: int) -> int:
        number = target.machine.kcmp
        return descriptors.compare_files(number, target.pid, one, other)

    return compare


def _find_equal(
    numbers: Sequence[int], compare: Callable[[int, int], int]
) -> Iterator[tuple[int, int]]:
    ordered = sorted(numbers, key=cmp_to_key(compare))
    first = -1
    groups: list[list[int]] = []
    for number in ordered:
        if groups and compare(first, number) == 0:
            groups[-1].append(number)
        else:
            groups.append([number])
            first = number
    for group in groups:
        lowest = min(group)
        yield from ((number, lowest) for number in group if number != lowest)


def _is_same(target: Target, raw: RawFd) -> bool:
    """Whether a descriptor still has the link it had under the freeze."""
    try:
        return files.read_link(f"/proc/{target.pid}/fd/{raw.fd}") == raw.link
    except OSError:
        return False


def _ask(
    pidfd: int, fd: int, inode: int | None, question: Callable[[int], _T]
) -> _T | None:
    """Return the answer of a copy, None if it is not that file any more."""
    try:
        copy = descriptors.getfd(pidfd, fd)
    except OSError:
        return None
    try:
        if inode not in (None, os.fstat(copy).st_ino):
            return None
        return question(copy)
    except OSError:
        return None
    finally:
        files.close_fd(copy)
