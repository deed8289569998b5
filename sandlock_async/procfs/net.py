"""Sockets: ``/proc/PID/net/*``, ``proc_pid_net(5)``, and ``sock_diag(7)`` of unix ones."""

import ipaddress
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_TCP_STATES = (
    "established",
    "syn-sent",
    "syn-recv",
    "fin-wait-1",
    "fin-wait-2",
    "time-wait",
    "unconnected",  # TCP_CLOSE: what ss(8) calls UNCONN
    "close-wait",
    "last-ack",
    "listen",
    "closing",
    "new-syn-recv",
    "bound-inactive",
)  # from 1 on, net/tcp_states.h

_PACKET_TYPES = {2: "dgram", 3: "raw"}
_UNIX_STATES = ("free", "unconnected", "connecting", "connected", "disconnecting")
_ACCEPTS = 0x10000  # __SO_ACCEPTCON of linux/net.h, in the column of flags


@dataclass(frozen=True, slots=True)
class SocketEntry:
    """A line of a table: which socket, and whose ends it has, as text.

    :ivar type: of the socket, where only the table tells
    :ivar protocol: likewise
    """

    inode: int
    state: str | None = None
    local: str | None = None
    remote: str | None = None
    type: str | None = None
    protocol: int | None = None


def parse_inet(content: bytes) -> Iterator[SocketEntry]:
    """Yield the sockets of ``tcp``, ``udp``, ``raw``, ``icmp`` and their ``6``.

    :raises ValueError: if a line has another form
    """
    #   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt
    #    uid  timeout inode …
    for fields in _rows(content, 10):
        number = int(fields[3], 16)
        known = 1 <= number <= len(_TCP_STATES)
        yield SocketEntry(
            inode=int(fields[9]),
            state=_TCP_STATES[number - 1] if known else str(number),
            local=_address(fields[1]),
            remote=_address(fields[2]),
        )


_UNIX_LINE = re.compile(
    rb"[0-9a-f]+: [0-9A-F]{8} [0-9A-F]{8} (?P<flags>[0-9A-F]{8}) [0-9A-F]{4} "
    rb"(?P<state>[0-9A-F]{2}) +(?P<inode>\d+)(?: (?P<path>.*))?"
)


def parse_unix(content: bytes) -> Iterator[SocketEntry]:
    """Yield the sockets of ``unix``; ``@`` begins an abstract name.

    The kernel does not escape a newline in a name: what has not the form of a line
    goes on with the name before it.

    :raises ValueError: if the first line has another form
    """
    # Num       RefCount Protocol Flags    Type St Inode Path
    lines: list[bytes] = []
    for line in content.split(b"\n")[1:]:
        if lines and not _UNIX_LINE.match(line):
            lines[-1] += b"\n" + line
        else:
            lines.append(line)
    if content.endswith(b"\n") and lines:
        lines[-1] = lines[-1].removesuffix(b"\n")
    for line in filter(None, lines):
        found = re.fullmatch(_UNIX_LINE.pattern, line, re.DOTALL)
        if found is None:
            raise ValueError(f"no line of net/unix: {line!r}")
        number = int(found["state"], 16)
        state = _UNIX_STATES[number] if number < len(_UNIX_STATES) else str(number)
        yield SocketEntry(
            inode=int(found["inode"]),
            state="listen" if int(found["flags"], 16) & _ACCEPTS else state,
            local=(found["path"] or b"").decode(errors="replace") or None,
        )


def parse_netlink(content: bytes) -> Iterator[SocketEntry]:
    """Yield the sockets of ``netlink``; their address is a port number.

    :raises ValueError: if a line has another form
    """
    # sk               Eth Pid        Groups   Rmem Wmem Dump Locks Drops Inode
    for fields in _rows(content, 10):
        yield SocketEntry(
            inode=int(fields[9]), local=str(int(fields[2])), protocol=int(fields[1])
        )


def parse_packet(content: bytes) -> Iterator[SocketEntry]:
    """Yield the sockets of ``packet``; their address is a protocol and an interface.

    :raises ValueError: if a line has another form
    """
    # sk               RefCnt Type Proto  Iface R Rmem   User   Inode
    for fields in _rows(content, 9):
        protocol, interface = int(fields[3], 16), int(fields[4])
        yield SocketEntry(
            inode=int(fields[8]),
            local=f"{protocol:#06x}:{interface}",
            type=_PACKET_TYPES.get(int(fields[2])),
            protocol=protocol,
        )


TABLES: Mapping[str, tuple[str, Callable[[bytes], Iterator[SocketEntry]]]] = {
    "unix": ("unix", parse_unix),
    "tcp": ("inet", parse_inet),
    "tcp6": ("inet6", parse_inet),
    "udp": ("inet", parse_inet),
    "udp6": ("inet6", parse_inet),
    "raw": ("inet", parse_inet),
    "raw6": ("inet6", parse_inet),
    "icmp": ("inet", parse_inet),
    "icmp6": ("inet6", parse_inet),
    "udplite": ("inet", parse_inet),
    "udplite6": ("inet6", parse_inet),
    "netlink": ("netlink", parse_netlink),
    "packet": ("packet", parse_packet),
}
"""File of ``/proc/PID/net``: the address family in it, and its parser."""


def _rows(content: bytes, count: int) -> Iterator[list[bytes]]:
    for line in content.split(b"\n")[1:]:
        fields = line.split()
        if not fields:
            continue
        if len(fields) < count:
            raise ValueError(f"no line of a table of sockets: {line!r}")
        yield fields


def _address(field: bytes) -> str | None:
    # 0100007F:1F90: words of 32 bits as this machine prints them, then the port
    digits, _, port = field.partition(b":")
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    if len(words) not in (1, 4):
        raise ValueError(f"no address: {field!r}")
    packed = struct.pack(f"={len(words)}I", *words)
    number = int(port, 16)
    if not any(packed) and not number:
        return None
    address = ipaddress.ip_address(packed)
    return f"[{address}]:{number}" if len(words) == 4 else f"{address}:{number}"


# -- unix_diag -----------------------------------------------------------------

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr, linux/netlink.h
_REQUEST = struct.Struct("=BBHIIIII")  # struct unix_diag_req, linux/unix_diag.h
_MESSAGE = struct.Struct("=BBBBIII")  # struct unix_diag_msg
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr

_DONE, _ERROR = 3, 2  # NLMSG_*
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_UNIX = 1  # AF_UNIX
_SHOW_PEER = 4  # UDIAG_SHOW_PEER
_PEER = 2  # UNIX_DIAG_PEER


def encode_peers_request() -> bytes:
    """Return the netlink message that asks for every unix socket and its peer."""
    body = _REQUEST.pack(_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_PEER, 0, 0)
    header = _HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST_DUMP, 1, 0)
    return header + body


def parse_peers(content: bytes) -> tuple[dict[int, int], bool]:
    """Return peers by inode, of one answer, and whether it is the last.

    :raises ValueError: if it is malformed, or an error
    """
    peers: dict[int, int] = {}
    try:
        position = 0
        while position < len(content):
            length, kind, _, _, _ = _HEADER.unpack_from(content, position)
            if not _HEADER.size <= length <= len(content) - position:
                raise ValueError(f"netlink message of {length} bytes")
            if kind == _DONE:
                return peers, True
            if kind == _ERROR:
                raise ValueError("the kernel answers with an error")
            if kind == _BY_FAMILY:
                body = content[position + _HEADER.size : position + length]
                peers.update(_peer(body))
            position += _aligned(length)
    except struct.error as error:
        raise ValueError(f"truncated netlink message: {error}") from error
    return peers, False


def _peer(body: bytes) -> Iterator[tuple[int, int]]:
    inode = _MESSAGE.unpack_from(body)[4]
    position = _MESSAGE.size
    while position < len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, position)
        if length < _ATTRIBUTE.size:
            raise ValueError(f"netlink attribute of {length} bytes")
        if kind == _PEER:
            (peer,) = struct.unpack_from("=I", body, position + _ATTRIBUTE.size)
            yield inode, peer
        position += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
