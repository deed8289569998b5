"""What each descriptor is, and what waits in it; and that nothing is taken out."""

import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

import sandlock_async as sa
from sandlock_async.model import (
    Described,
    Device,
    Directory,
    Epoll,
    EventFd,
    FdDetails,
    Fifo,
    Inotify,
    IoUring,
    MemFd,
    Other,
    PidFd,
    Pipe,
    ProcessState,
    Pty,
    RegularFile,
    SignalFd,
    Socket,
    TimerFd,
    UserFaultFd,
)
from tests.conftest import PROGRAMS, Tracee, until
from tests.programs.status import ERRORS, PROGRESS

pytestmark = pytest.mark.usefixtures("nothing_left")

SOMEBODY = 65534
DATAGRAMS = (b"first", b"x" * 5000, b"", b"last")
PACKETS = (b"one", b"two", b"three")


class Seen:
    """The descriptors of an image, by the names that the program has for them."""

    def __init__(self, state: ProcessState, fds: dict[str, int]) -> None:
        self.state = state
        self.fds = fds
        self.details = {this.fd: this for this in state.fd_details}

    def __getitem__(self, name: str) -> FdDetails:
        return self.details[self.fds[name]]

    def what(self, name: str, kind: "type[Any]") -> Any:
        found = self[name].what
        assert isinstance(found, kind), (name, found)
        return found

    def messages(self, name: str) -> tuple[bytes, ...]:
        inode = self.what(name, Socket).inode
        found = [this for this in self.state.socket_contents if this.inode == inode]
        return found[0].messages if found else ()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


def check_the_program(tracee: Tracee) -> None:
    """Let it read everything, and assert that nothing was missing."""
    os.kill(tracee.pid, signal.SIGUSR1)
    until(lambda: tracee.status[PROGRESS], "the program's own check")
    assert tracee.status[ERRORS] == 0


async def test_each_kind(
    spawn: Callable[..., Tracee], folder: Path, tmp_path: Path
) -> None:
    tracee = spawn("descriptors.py", folder)
    fds = json.loads((folder / "fds.json").read_text())

    async with await sa.capture(tracee.pid) as checkpoint:
        await checkpoint.save(tmp_path / "saved")
        async with await sa.Checkpoint.load(tmp_path / "saved") as loaded:
            assert loaded.process_state == checkpoint.process_state
            state = loaded.process_state
            table = loaded.fd_table

    assert [this.fd for this in state.fd_details] == [this.fd for this in table]
    seen = Seen(state, fds)
    check_files(seen, folder, tracee.pid)
    check_pipes(seen, (folder / "data").read_bytes())
    check_unix_sockets(seen, DATAGRAMS)
    check_other_sockets(seen)
    check_the_others(seen, folder, tracee.pid)
    assert {this.fd for this in state.skipped_fds} == {fds["stream1"]}
    assert "2 descriptors in flight" in state.skipped_fds[0].reason
    # What an earlier peek has marked cannot be told any more.
    async with await sa.capture(tracee.pid) as again:
        check_unix_sockets(
            Seen(again.process_state, fds), tuple(filter(None, DATAGRAMS))
        )
    check_the_program(tracee)


def check_files(seen: Seen, folder: Path, pid: int) -> None:
    regular = seen.what("file", RegularFile)
    status = os.stat(folder / "file")
    assert (regular.file.device, regular.file.inode) == (status.st_dev, status.st_ino)
    assert (regular.file.size, regular.file.mtime_ns) == (7, status.st_mtime_ns)
    assert not regular.deleted
    assert not regular.content
    assert seen.what("deleted", RegularFile).deleted
    assert not seen.what("not_deleted", RegularFile).deleted
    assert seen["file_again"].same_as == seen.fds["file"]
    assert seen["file"].same_as is None
    assert seen["file_other"].same_as is None
    assert seen.what("directory", Directory).file.inode == os.stat(folder).st_ino
    null = seen.what("null", Device)
    assert (null.block, null.rdev) == (False, os.makedev(1, 3))
    fifo = seen.what("fifo", Fifo)
    assert fifo.read and fifo.write and not fifo.content
    memfd = seen.what("memfd", MemFd)
    assert (memfd.name, memfd.file.size, memfd.seals) == ("me mo", 12345, 2)
    master, slave = seen.what("master", Pty), seen.what("slave", Pty)
    assert (master.master, slave.master) == (True, False)
    assert master.index == slave.index
    link = os.readlink(f"/proc/{pid}/fd/{seen.fds['slave']}")
    assert link == f"/dev/pts/{slave.index}"


def check_pipes(seen: Seen, data: bytes) -> None:
    contents = {this.inode: this for this in seen.state.pipe_contents}
    reader, writer = seen.what("pipe0", Pipe), seen.what("pipe1", Pipe)
    assert (reader.read, reader.write) == (True, False)
    assert (writer.read, writer.write) == (False, True)
    assert (reader.peers, writer.peers) == ((seen.fds["pipe1"],), (seen.fds["pipe0"],))
    assert reader.content and writer.content
    assert contents[reader.inode].data == data
    assert contents[reader.inode].packets == ()
    packets = seen.what("packets0", Pipe)
    assert seen.what("packets1", Pipe).packets
    assert contents[packets.inode].data == b"".join(PACKETS)
    assert contents[packets.inode].packets == tuple(map(len, PACKETS))
    empty = seen.what("empty0", Pipe)
    assert empty.content
    assert empty.inode not in contents


def check_unix_sockets(seen: Seen, datagrams: tuple[bytes, ...]) -> None:
    left, right = seen.what("stream0", Socket), seen.what("stream1", Socket)
    assert (left.family, left.type, left.state) == ("unix", "stream", "connected")
    assert (left.peer, right.peer) == (right.inode, left.inode)
    assert left.peers == (seen.fds["stream1"],)
    assert left.content and not right.content
    assert (left.in_flight, right.in_flight) == (0, 2)
    assert seen.messages("stream1") == (b"before with after",)
    assert seen.messages("plain0") == (b"to the left",)
    assert seen.messages("plain1") == (b"to the right",)
    assert seen.messages("dgram1") == datagrams
    assert seen.what("dgram1", Socket).type == "dgram"
    assert seen.messages("seqpacket1") == PACKETS
    half = seen.what("half0", Socket)
    assert (half.type, half.peer, half.content) == ("seqpacket", 0, True)
    assert seen.messages("half0") == (b"left behind",)
    assert seen.messages("peeked1") == (b"seen, unseen",)


def check_other_sockets(seen: Seen) -> None:
    server, client, accepted = (seen.what(f"tcp{n}", Socket) for n in range(3))
    assert (server.family, server.type, server.protocol) == ("inet", "stream", 6)
    assert (server.state, client.state) == ("listen", "established")
    assert server.local.startswith("127.0.0.1:")
    assert client.remote == server.local
    assert (accepted.local, accepted.remote) == (client.remote, client.local)
    assert not client.content
    udp, named, caller, netlink, new = (seen.what(f"some{n}", Socket) for n in range(5))
    assert (udp.family, udp.type) == ("inet6", "dgram")
    if udp.local is not None:
        assert udp.local.startswith("[::1]:")
    assert named.state == "listen"
    assert named.local.startswith("@sandlock-async-")
    assert not named.content
    assert caller.local is None
    # Nobody has accepted it: the other end is no descriptor of anybody yet.
    assert caller.peers == ()
    assert (netlink.family, netlink.protocol) == ("netlink", 0)
    assert int(netlink.local)
    assert (new.family, new.type, new.state) == ("inet", "stream", None)


def check_the_others(seen: Seen, folder: Path, pid: int) -> None:
    event = seen.what("eventfd", EventFd)
    assert event.count == 4242
    assert event.semaphore in (True, None)
    timer = seen.what("timerfd", TimerFd)
    assert (timer.clockid, timer.ticks, timer.settime_flags) == (1, 0, 0)
    assert timer.interval_ns == 7 * 10**9 + 5
    assert 35_000 * 10**9 < timer.value_ns <= 36_000 * 10**9
    assert seen.what("signalfd", SignalFd).mask == 1 << (signal.SIGUSR2 - 1)
    epoll = seen.what("epoll", Epoll)
    targets = {this.fd: this for this in epoll.targets}
    assert set(targets) == {seen.fds["eventfd"], seen.fds["empty0"]}
    watched = targets[seen.fds["eventfd"]]
    wanted = select.EPOLLIN | select.EPOLLET
    assert watched.events & wanted == wanted
    assert watched.data & 0xFFFFFFFF == seen.fds["eventfd"]
    assert targets[seen.fds["empty0"]].inode == seen.what("empty0", Pipe).inode
    (watch,) = seen.what("inotify", Inotify).watches
    assert (watch.inode, watch.mask) == (os.stat(folder).st_ino, 0x100)
    assert seen.what("pidfd", PidFd).pid == pid
    others: dict[str, type[Described]] = {
        "userfaultfd": UserFaultFd,
        "io_uring": IoUring,
        "landlock": Other,
    }
    for name, kind in others.items():
        if name in seen.fds:
            seen.what(name, kind)


CAPTURE = """
import asyncio, sys
import anyio._backends._asyncio
import sandlock_async as sa
from sandlock_async.image.records import encode_record
from sandlock_async.image.process_json import dumps
from descriptors import become

async def main():
    async with await sa.capture(int(sys.argv[1])) as checkpoint:
        state = checkpoint.process_state
    print(dumps([encode_record(this) for this in (
        state.fd_details, state.pipe_contents, state.socket_contents
    )]).decode())

asyncio.run(asyncio.sleep(0))
become(int(sys.argv[2]))
asyncio.run(main())
"""


@pytest.fixture
def somebody() -> Iterator[Path]:
    """A folder of somebody without rights."""
    if os.getuid():
        pytest.skip("needs root, to be somebody else")
    folder = Path(tempfile.mkdtemp(prefix="sandlock-async-"))
    os.chown(folder, SOMEBODY, SOMEBODY)
    yield folder
    shutil.rmtree(folder)


def test_without_rights(spawn: Callable[..., Tracee], somebody: Path) -> None:
    tracee = spawn("descriptors.py", somebody, SOMEBODY)
    fds = json.loads((somebody / "fds.json").read_text())
    command = [sys.executable, "-c", CAPTURE, str(tracee.pid), str(SOMEBODY)]
    path = os.pathsep.join([str(PROGRAMS), str(PROGRAMS.parent.parent)])
    environment = {**os.environ, "PYTHONPATH": path}

    done = subprocess.run(
        command, env=environment, capture_output=True, check=False, timeout=60
    )
    if b"ptrace_scope" in done.stderr:
        pytest.skip("needs kernel.yama.ptrace_scope=0")

    assert done.returncode == 0, done.stderr.decode()
    details, pipes, sockets = orjson.loads(done.stdout)
    whats = {this["fd"]: this["what"] for this in details}
    same = {this["fd"]: this["same_as"] for this in details}
    assert whats[fds["pipe0"]]["content"]
    assert whats[fds["plain0"]]["peers"] == [fds["plain1"]]
    assert whats[fds["memfd"]]["seals"] == 2
    assert whats[fds["file"]]["file"]["size"] == 7
    assert same[fds["file_again"]] == fds["file"]
    assert (somebody / "data").read_bytes().hex() in {this["data"] for this in pipes}
    assert [b"to the left".hex()] in [this["messages"] for this in sockets]
    check_the_program(tracee)


def numbers(data: bytes) -> list[int]:
    return [number for (number,) in struct.iter_unpack("=Q", data)]


async def test_in_the_midst_of_traffic(spawn: Callable[..., Tracee]) -> None:
    tracee = spawn("traffic.py")
    found = Counter[str]()

    for _ in range(20):
        async with await sa.capture(tracee.pid) as checkpoint:
            state = checkpoint.process_state
        contents = [("pipe", this.data) for this in state.pipe_contents]
        contents += [
            ("sockets", b"".join(this.messages)) for this in state.socket_contents
        ]
        for name, data in contents:
            waiting = numbers(data)
            assert waiting == list(range(waiting[0], waiting[0] + len(waiting)))
            found[name] += 1
        assert state.skipped_fds == ()
        tracee.check_runs_on()

    assert found["pipe"] and found["sockets"]


CROWD = """
import os, socket, sys
null = os.open("/dev/null", os.O_RDONLY)
kept = [os.dup(null) for _ in range(100)]
kept += [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
for n in range(150):
    kept += os.pipe()
    os.write(kept[-1], b"pipe %d" % n)
for n in range(150):
    kept += (pair := socket.socketpair())
    pair[0].send(b"pair %d" % n)
print(flush=True)
sys.stdin.read()
"""


async def test_a_thousand() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CROWD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()

        async with await sa.capture(process) as checkpoint:
            state = checkpoint.process_state

        kinds = Counter(this.what.kind for this in state.fd_details)
        assert kinds["device"] >= 401
        assert kinds["pipe"] >= 300
        assert kinds["socket"] == 300
        assert sum(this.same_as is not None for this in state.fd_details) >= 100
        assert {this.data for this in state.pipe_contents} == {
            b"pipe %d" % n for n in range(150)
        }
        assert {this.messages for this in state.socket_contents} == {
            (b"pair %d" % n,) for n in range(150)
        }
        assert state.skipped_fds == ()
        process.stdin.close()


async def test_an_end_outside(tmp_path: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        until(
            lambda: Path(f"/proc/{process.pid}/comm").read_text() == "cat\n",
            "cat to be executed",
        )
        async with await sa.capture(process) as checkpoint:
            what = checkpoint.process_state.fd_details[0].what
            contents = checkpoint.process_state.pipe_contents
        process.stdin.close()

    assert isinstance(what, Pipe)
    assert (what.read, what.peers, what.content) == (True, (), False)
    assert contents == ()


IN_FLIGHT = """
import array, os, socket, sys

def put_one_in_flight():
    here, there = socket.socketpair()
    rights = array.array("i", [0])
    here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    here.close()
    return there

there = put_one_in_flight()
if not os.fork():
    there.close()
    there = put_one_in_flight()
    print(os.getpid(), there.fileno(), os.getppid(), flush=True)
sys.stdin.read()
"""


async def test_what_is_lost_of_descriptors_is_told(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", IN_FLIGHT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        child, fd, pid = map(int, process.stdout.readline().split())
        assert pid == process.pid

        report = await sa.capture_to(process, tmp_path / "it", tree=True)

        assert report.children == (child,)
        assert [
            warning.partition(" (socket:[")[0]
            for warning in report.warnings
            if warning.endswith(
                "]): not all that waits in it is in the image: 1 descriptors in flight "
                "(SCM_RIGHTS)"
            )
        ] == [f"descriptor {fd} of process {number}" for number in (process.pid, child)]
        assert len(report.warnings) == 2
        process.stdin.close()


ORDINARY = """
import asyncio, socket, subprocess, sys

async def main():
    async def serve(reader, writer): pass
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = socket.create_connection(server.sockets[0].getsockname())
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    process.stdin.write(b"x")  # it has started up when it gives that back
    await process.stdout.readexactly(1)
    print(flush=True)
    await process.wait()

asyncio.run(main())
"""


async def test_an_ordinary_program_gives_no_warning(tmp_path: Path) -> None:
    master, slave = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", ORDINARY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=slave,
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()

            report = await sa.capture_to(process, tmp_path / "it", tree=True)

            assert report.warnings == ()
            assert len(report.children) == 1
            os.kill(report.children[0], signal.SIGKILL)
        finally:
            process.kill()
            os.close(master)
            os.close(slave)
