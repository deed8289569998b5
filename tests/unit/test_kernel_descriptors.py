"""Looks into pipes and sockets: on our own, and nothing is taken out."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandlock_async.arch import MACHINES
from sandlock_async.kernel import descriptors


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_NONBLOCK)
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def test_a_pipe_is_copied_and_stays_full() -> None:
    data = os.urandom(30000)
    copier = descriptors.PipeCopy()
    with pipe() as (read, write):
        os.write(write, data)

        assert descriptors.waiting_bytes(read) == len(data)
        assert copier.copy(read, len(data)) == [data]
        assert copier.copy(read, 10) == [data[:10]]
        assert os.read(read, 1 << 16) == data
        with pytest.raises(BlockingIOError):
            copier.copy(read, 1)
    copier.close()


def test_kcmp() -> None:
    number = MACHINES[os.uname().machine].kcmp
    with pipe() as (read, write):
        same = os.dup(read)

        assert descriptors.compare_files(number, os.getpid(), read, same) == 0
        order = descriptors.compare_files(number, os.getpid(), read, write)
        assert order == -descriptors.compare_files(number, os.getpid(), write, read)
        assert order
        os.close(same)
        with pytest.raises(OSError, match="kcmp"):
            descriptors.compare_files(number, os.getpid(), read, same)


def test_peeking_installs_no_descriptor() -> None:
    left, right = socket.socketpair()
    with left, right:
        socket.send_fds(left, [b"first"], [left.fileno()])
        left.send(b"second")
        before = os.listdir("/proc/self/fd")

        assert descriptors.peek_stream(right.fileno()) == b"firstsecond"

        assert os.listdir("/proc/self/fd") == before
        assert right.getsockopt(socket.SOL_SOCKET, descriptors.SO_PEEK_OFF) == -1
        data, fds, _, _ = socket.recv_fds(right, 100, 1)
        assert data == b"first"
        os.close(fds[0])


def test_a_long_message() -> None:
    kind = socket.SOCK_SEQPACKET
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    with left, right:
        forced = getattr(socket, "SO_SNDBUFFORCE", 32)
        option = socket.SO_SNDBUF if os.getuid() else forced
        left.setsockopt(socket.SOL_SOCKET, option, 1 << 21)
        size = left.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 4
        messages = [b"short", os.urandom(size), b"", b"end"]
        for message in messages:
            left.send(message)

        found = descriptors.peek_messages(right.fileno(), connected=True)

        assert found == messages
        assert [right.recv(size) for _ in messages] == messages


def test_what_listens_has_no_content() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("")
        server.listen()

        with pytest.raises(OSError, match="Invalid argument"):
            descriptors.peek_stream(server.fileno())
