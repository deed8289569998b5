"""Opens a descriptor of each kind, tells which is which, and later checks that what it
left in them is all there. argv[2] is a folder; SIGUSR1 asks for the check, whose end is
told by PROGRESS. argv[3], if given, is the user to be.
"""

import ctypes
import json
import mmap
import os
import platform
import select
import signal
import socket
import struct
import sys
from pathlib import Path

from status import ERRORS, PROGRESS, READY, Status

libc = ctypes.CDLL(None, use_errno=True)
USERFAULTFD = {"x86_64": 323}.get(platform.machine(), 282)
IO_URING_SETUP, LANDLOCK_CREATE_RULESET = 425, 444

DATAGRAMS = [b"first", b"x" * 5000, b"", b"last"]
PACKETS = [b"one", b"two", b"three"]


def become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, or nobody but root may look at us


def main() -> None:
    status = Status(sys.argv[1])
    folder = Path(sys.argv[2])
    if len(sys.argv) > 3:
        become(int(sys.argv[3]))
    fds: dict[str, int] = {}
    keep: list[object] = []

    def sockets(name: str, *pair: socket.socket) -> tuple[socket.socket, ...]:
        keep.extend(pair)
        for number, this in enumerate(pair):
            fds[f"{name}{number}"] = this.fileno()
        return pair

    # files
    (folder / "file").write_bytes(b"content")
    fds["file"] = os.open(folder / "file", os.O_RDWR)
    os.lseek(fds["file"], 3, os.SEEK_SET)
    fds["file_again"] = os.dup(fds["file"])
    fds["file_other"] = os.open(folder / "file", os.O_RDWR)
    os.lseek(fds["file_other"], 3, os.SEEK_SET)
    fds["deleted"] = os.open(folder / "gone", os.O_RDWR | os.O_CREAT)
    os.unlink(folder / "gone")
    fds["not_deleted"] = os.open(folder / "a (deleted)", os.O_RDWR | os.O_CREAT)
    fds["directory"] = os.open(folder, os.O_RDONLY)
    fds["null"] = os.open("/dev/null", os.O_RDWR)
    os.mkfifo(folder / "fifo")
    fds["fifo"] = os.open(folder / "fifo", os.O_RDWR)
    fds["memfd"] = os.memfd_create("me mo", os.MFD_ALLOW_SEALING)
    os.ftruncate(fds["memfd"], 12345)
    libc.fcntl(fds["memfd"], 1033, 0x2)  # F_ADD_SEALS, F_SEAL_SHRINK
    fds["master"], fds["slave"] = os.openpty()

    # pipes
    fds["pipe0"], fds["pipe1"] = os.pipe()
    libc.fcntl(fds["pipe1"], 1031, 1 << 20)  # F_SETPIPE_SZ
    data = os.urandom(1000) * 300
    (folder / "data").write_bytes(data)
    os.write(fds["pipe1"], data)
    fds["packets0"], fds["packets1"] = os.pipe2(os.O_DIRECT)
    for packet in PACKETS:
        os.write(fds["packets1"], packet)
    fds["empty0"], fds["empty1"] = os.pipe()

    # sockets
    left, right = sockets("stream", *socket.socketpair())
    left.send(b"before ")
    socket.send_fds(left, [b"with "], [fds["null"], fds["file"]])
    left.send(b"after")
    plain_left, plain_right = sockets("plain", *socket.socketpair())
    plain_left.send(b"to the right")
    plain_right.send(b"to the ")
    plain_right.send(b"left")
    one, other = sockets("dgram", *socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    for message in DATAGRAMS:
        one.send(message)
    kind = socket.SOCK_SEQPACKET
    sender, receiver = sockets("seqpacket", *socket.socketpair(socket.AF_UNIX, kind))
    for message in PACKETS:
        sender.send(message)
    half, open_half = socket.socketpair(socket.AF_UNIX, kind)
    half.send(b"left behind")
    half.close()
    sockets("half", open_half)
    peeking, peeked = sockets("peeked", *socket.socketpair())
    peeking.send(b"seen, unseen")
    peeked.setsockopt(socket.SOL_SOCKET, 42, 0)  # SO_PEEK_OFF
    peeked.recv(6, socket.MSG_PEEK)
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.socket()
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    client.send(b"over tcp")
    sockets("tcp", server, client, accepted)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    if socket.has_ipv6:
        udp.bind(("::1", 0))
    named = socket.socket(socket.AF_UNIX)
    named.bind(f"\0sandlock-async-{os.getpid()}")
    named.listen()
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(named.getsockname())
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    netlink.bind((0, 0))
    sockets("some", udp, named, caller, netlink, socket.socket())

    # the others
    fds["eventfd"] = os.eventfd(4242, os.EFD_SEMAPHORE)
    fds["timerfd"] = libc.timerfd_create(1, 0)
    ten_hours = struct.pack("=4q", 7, 5, 36000, 0)
    libc.timerfd_settime(fds["timerfd"], 0, ten_hours, None)
    mask = struct.pack("=16Q", 1 << (signal.SIGUSR2 - 1), *[0] * 15)
    fds["signalfd"] = libc.signalfd(-1, mask, 0)
    epoll = select.epoll()
    keep.append(epoll)
    fds["epoll"] = epoll.fileno()
    epoll.register(fds["eventfd"], select.EPOLLIN | select.EPOLLET)
    epoll.register(fds["empty0"], select.EPOLLIN)
    fds["inotify"] = libc.inotify_init1(0)
    libc.inotify_add_watch(fds["inotify"], bytes(folder), 0x100)
    fds["pidfd"] = os.pidfd_open(os.getpid())
    maybe = {
        "userfaultfd": libc.syscall(USERFAULTFD, 1),
        "io_uring": libc.syscall(IO_URING_SETUP, 4, ctypes.create_string_buffer(120)),
        "landlock": libc.syscall(
            LANDLOCK_CREATE_RULESET, struct.pack("=2Q", 1, 0), 8, 0
        ),
    }
    fds.update({name: fd for name, fd in maybe.items() if fd >= 0})

    def check() -> None:
        def expect(condition: object) -> None:
            status[ERRORS] += not condition

        expect(os.read(fds["pipe0"], 1 << 20) == data)
        for packet in PACKETS:
            expect(os.read(fds["packets0"], 100) == packet)
            expect(receiver.recv(100) == packet)
        first, received, _, _ = socket.recv_fds(right, 100, 4)
        while len(first) < len(b"before with after"):
            more, new, _, _ = socket.recv_fds(right, 100, 4)
            first, received = first + more, received + new
        expect(first == b"before with after")
        expect(len(received) == 2)
        expect(os.path.samestat(os.fstat(received[1]), os.fstat(fds["file"])))
        expect(plain_right.recv(100) == b"to the right")
        expect(plain_left.recv(100) == b"to the left")
        for message in DATAGRAMS:
            expect(other.recv(10000) == message)
        expect(open_half.recv(100) == b"left behind")
        expect(peeked.recv(100, socket.MSG_PEEK) == b"unseen")
        expect(peeked.recv(100) == b"seen, unseen")
        expect(accepted.recv(100) == b"over tcp")
        for empty in (right, plain_left, other, receiver, peeked):
            empty.setblocking(False)
            try:
                empty.recv(1)
                expect(False)
            except BlockingIOError:
                pass
        expect(os.lseek(fds["file"], 0, os.SEEK_CUR) == 3)
        expect(os.eventfd_read(fds["eventfd"]) == 1)
        status[PROGRESS] += 1

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    keep.append(mmap.mmap(fds["memfd"], 4096))
    (folder / "fds.json").write_text(json.dumps(fds))
    status[READY] = 1
    while True:
        if signal.sigtimedwait({signal.SIGUSR1}, 600):
            check()


if __name__ == "__main__":
    main()
