"""Descriptors, put together from what was read, and as JSON."""

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sandlock_async.image.records import decode_record, encode_record
from sandlock_async.image.strict_json import Malformed
from sandlock_async.model import (
    FdDetails,
    Pipe,
    PipeContent,
    Socket,
    SocketContent,
)
from sandlock_async.procfs.fdinfo import parse_fdinfo
from sandlock_async.snapshot.facts import RawFd
from sandlock_async.snapshot.fd_contents import RawContent
from sandlock_async.snapshot.fd_details import describe_fds
from sandlock_async.snapshot.fd_late import LateFds, SocketKind, read_late
from sandlock_async.target import open_target
from tests.unit.test_fdinfo_net import ANONYMOUS


def test_what_sockets_are() -> None:
    made = {
        SocketKind("inet", "stream", 6): socket.socket(),
        SocketKind("inet6", "dgram", 17): socket.socket(
            socket.AF_INET6, socket.SOCK_DGRAM
        ),
        SocketKind("netlink", None, None): socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW
        ),
        SocketKind("unix", "seqpacket", 0): socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        ),
    }
    fds = [this.fileno() for this in made.values()]
    child = subprocess.Popen(["sleep", "60"], pass_fds=fds)
    try:
        with open_target(child) as target:
            late = read_late(
                target,
                [
                    RawFd(
                        fd=fd,
                        link=os.readlink(f"/proc/self/fd/{fd}").encode(),
                        fdinfo=Path(f"/proc/self/fdinfo/{fd}").read_bytes(),
                    )
                    for fd in fds
                ],
            )
    finally:
        child.kill()
        child.wait()
        for this in made.values():
            this.close()

    assert list(late.kinds.values()) == list(made)


NOTHING: dict[str, Any] = {
    "files": {},
    "seals": {},
    "kinds": {},
    "entries": {},
    "peers": {},
    "same": {},
}


def raw(fd: int, link: bytes, flags: int = os.O_RDWR, more: bytes = b"") -> RawFd:
    fdinfo = b"pos:\t0\nflags:\t%o\n" % flags + more
    assert parse_fdinfo(fdinfo) == (flags, 0)
    return RawFd(fd=fd, link=link, fdinfo=fdinfo)


def test_what_is_closed_after_the_thaw_is_no_error() -> None:
    fds = [
        raw(0, b"/tmp/file"),
        raw(1, b"socket:[7]"),
        raw(2, b"/memfd:x (deleted)"),
        raw(3, b"anon_inode:[eventfd]", more=b"eventfd-count: none\n"),
    ]

    found = describe_fds(fds, [], LateFds(**NOTHING))

    kinds = [this.what.kind for this in found.details]
    assert kinds == ["other", "socket", "memfd", "other"]


def test_reasons() -> None:
    fds = [
        raw(3, b"pipe:[1]", os.O_RDONLY),
        raw(4, b"pipe:[1]", os.O_WRONLY),
        raw(5, b"socket:[7]", more=b"scm_fds: 0\n"),
        raw(6, b"socket:[8]", more=b"scm_fds: 0\n"),
    ]
    contents = [
        RawContent(fds[0], [b"half"], missing=4),
        RawContent(fds[2], [], error=1),
        RawContent(fds[3], [b"from elsewhere"]),
    ]

    found = describe_fds(fds, contents, LateFds(**{**NOTHING, "peers": {8: 1000}}))

    assert [this.what.content for this in found.details] == [False] * 4
    assert found.pipes == found.sockets == ()
    assert [this.fd for this in found.skipped] == [3, 5]
    assert "4 bytes" in found.skipped[0].reason
    assert "not permitted" in found.skipped[1].reason


def test_json_and_back() -> None:
    details = [FdDetails(fd=9, what=what, same_as=None) for _, _, what in ANONYMOUS] + [
        FdDetails(fd=1, what=Pipe(inode=4, read=True, write=False, peers=(3,))),
        FdDetails(fd=2, what=Socket(inode=5, peer=0), same_as=1),
    ]

    for this in details:
        encoded = encode_record(this)
        assert encoded["what"]["kind"] == this.what.kind
        assert decode_record(FdDetails, encoded, "fds") == this
    for content in (
        PipeContent(inode=1, data=b"\0\xff", packets=(1, 1)),
        SocketContent(inode=2, messages=(b"", b"one")),
    ):
        kind: type[object] = type(content)
        assert decode_record(kind, encode_record(content), "it") == content
    encoded = encode_record(details[0])
    encoded["what"]["kind"] = "of tomorrow"
    with pytest.raises(Malformed, match="tomorrow"):
        decode_record(FdDetails, encoded, "fds")
