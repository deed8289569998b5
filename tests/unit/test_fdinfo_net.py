"""Descriptors and sockets: the parsers, on what the kernel prints."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from sandlock_async.procfs.fdinfo import parse_anonymous, parse_number
from sandlock_async.procfs.net import (
    TABLES,
    SocketEntry,
    encode_peers_request,
    parse_inet,
    parse_netlink,
    parse_packet,
    parse_peers,
    parse_unix,
)

HEAD = b"pos:\t0\nflags:\t02\nmnt_id:\t17\nino:\t1038\n"
ANONYMOUS: list[tuple[bytes, bytes, Described]] = [
    (
        b"anon_inode:[eventfd]",
        b"eventfd-count:               1f\neventfd-id: 3\neventfd-semaphore: 1\n",
        EventFd(content=True, count=31, id=3, semaphore=True),
    ),
    (
        b"anon_inode:[eventfd]",  # before Linux 5.2
        b"eventfd-count:                0\n",
        EventFd(content=True, count=0),
    ),
    (
        b"anon_inode:[timerfd]",
        b"clockid: 1\nticks: 2\nsettime flags: 03\nit_value: (1, 49406829)\n"
        b"it_interval: (10, 0)\n",
        TimerFd(
            content=True,
            clockid=1,
            ticks=2,
            settime_flags=3,
            value_ns=1049406829,
            interval_ns=10**10,
        ),
    ),
    (
        b"anon_inode:[signalfd]",
        b"sigmask:\t8000000000000200\n",
        SignalFd(content=True, mask=(1 << 63) + 512),
    ),
    (
        b"anon_inode:[eventpoll]",
        b"tfd:        4 events: 80000019 data: ffffffff00000004  pos:-1 ino:7c5dc sdev:9\n"
        b"tfd:       12 events:        1 data:                c\n",
        Epoll(
            content=True,
            targets=(
                EpollTarget(
                    fd=4,
                    events=0x80000019,
                    data=0xFFFFFFFF00000004,
                    position=(1 << 64) - 1,
                    inode=0x7C5DC,
                    device=9,
                ),
                EpollTarget(fd=12, events=1, data=12),
            ),
        ),
    ),
    (
        b"anon_inode:inotify",
        b"inotify wd:a ino:3f7e8 sdev:fe00000 mask:2 ignored_mask:0 fhandle-bytes:8 "
        b"fhandle-type:1 f_handle:e8f7030000000000\n",
        Inotify(
            watches=(InotifyWatch(wd=10, inode=0x3F7E8, device=0xFE00000, mask=2),)
        ),
    ),
    (b"anon_inode:[pidfd]", b"Pid:\t-1\nNSpid:\t0\n", PidFd(content=True, pid=-1)),
    (b"anon_inode:[userfaultfd]", b"pending:\t0\n", UserFaultFd()),
    (b"anon_inode:[io_uring]", b"SqMask:\t0x3\n", IoUring()),
    (b"anon_inode:bpf-map", b"map_type:\t1\n", Other(name="anon_inode:bpf-map")),
    (b"mnt:[4026531841]", b"", Other(name="mnt:[4026531841]")),
]


@pytest.mark.parametrize(("link", "content", "what"), ANONYMOUS)
def test_anonymous(link: bytes, content: bytes, what: Described) -> None:
    assert parse_anonymous(link, HEAD + content + b"news:\tof 2040\n") == what
    assert parse_number(HEAD, b"ino") == 1038
    assert parse_number(HEAD, b"scm_fds") is None


TCP = b"""  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 77 1
   1: 0100007F:1F90 0200007F:0016 01 00000000:00000000 00:00000000 00000000  0  0 78 1
"""
TCP6 = b"""  sl  local_address  remote_address  st tx_queue rx_queue tr tm->when
   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 FF \
00000000:00000000 00:00000000 00000000     0        0 79 1
"""
UNIX = b"""Num       RefCount Protocol Flags    Type St Inode Path
000000008fa02aec: 00000002 00000000 00010000 0001 01  1658 /run/a path
00000000687493a1: 00000003 00000000 00000000 0001 03    16
0000000000000000: 00000003 00000000 00000000 0002 01 99999 @two
lines
"""
NETLINK = b"""sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
00000000778a78a3 0   4242       00000000 0        0        0     2        0        4
"""
PACKET = b"""sk               RefCnt Type Proto  Iface R Rmem   User   Inode
00000000778a78a3 3      3    0003   2     1 0      0      5
"""


def test_tables_of_sockets() -> None:
    assert list(parse_inet(TCP)) == [
        SocketEntry(77, "listen", "127.0.0.1:8080", None),
        SocketEntry(78, "established", "127.0.0.1:8080", "127.0.0.2:22"),
    ]
    assert list(parse_inet(TCP6)) == [SocketEntry(79, "255", "[::1]:80", None)]
    assert list(parse_unix(UNIX)) == [
        SocketEntry(1658, "listen", "/run/a path"),
        SocketEntry(16, "connected"),
        SocketEntry(99999, "unconnected", "@two\nlines"),
    ]
    assert list(parse_netlink(NETLINK)) == [SocketEntry(4, None, "4242", protocol=0)]
    assert list(parse_packet(PACKET)) == [
        SocketEntry(5, None, "0x0003:2", type="raw", protocol=3)
    ]


def answer(*sockets: tuple[int, bytes], last: bool = False) -> bytes:
    content = b""
    for inode, attributes in sockets:
        body = struct.pack("=4B3I", 1, 1, 1, 0, inode, 0, 0) + attributes
        content += struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 0) + body
    return content + struct.pack("=IHHIII", 20, 3, 2, 1, 0, 0) * last


PEER = struct.pack("=HHI", 8, 2, 77)
NAME = struct.pack("=HH", 7, 0) + b"abc\0"


def test_peers() -> None:
    content = answer((5, NAME + PEER), (6, NAME), (7, PEER))

    assert parse_peers(content) == ({5: 77, 7: 77}, False)
    assert parse_peers(answer((5, PEER), last=True)) == ({5: 77}, True)
    assert len(encode_peers_request()) == 40
    with pytest.raises(ValueError, match="error"):
        parse_peers(struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -2))


@pytest.mark.parametrize("length", range(1, len(answer((5, NAME + PEER)))))
def test_truncated_peers(length: int) -> None:
    with pytest.raises(ValueError, match="netlink"):
        parse_peers(answer((5, NAME + PEER))[:length])


@given(st.binary(max_size=200))
def test_garbage_is_a_value_error(content: bytes) -> None:
    for _, parse in TABLES.values():
        try:
            list(parse(b"header\n" + content))
        except ValueError:
            continue
    for link, _, _ in ANONYMOUS:
        try:
            parse_anonymous(link, content)
            parse_number(content, b"ino")
        except ValueError:
            continue
    try:
        parse_peers(content)
    except ValueError:
        pass
