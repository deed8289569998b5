"""A preflight says what a capture would, and does nothing to anybody."""

import asyncio
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

import sandlock_async as sa
from sandlock_async.snapshot.fd_unheld import find_unheld
from sandlock_async.target import Target, open_target
from tests.conftest import PROGRAMS, Tracee, until
from tests.integration.test_cli import run
from tests.programs.status import ERRORS, PROGRESS
from tests.unit.stages import mounted

pytestmark = pytest.mark.usefixtures("nothing_left")

SOMEBODY = 65534
KERNEL = [
    "machine",
    "open_files",
    "ptrace",
    "process_vm_readv",
    "pidfd",
    "pidfd_getfd",
    "pagemap_scan",
    "userfaultfd",
    "yama",
]
PROCESS = [
    "process",
    "uid",
    "dumpable",
    "tracer",
    "permission",
    "waiters",
    "seccomp",
    "memory",
    "clone",
    "strategy",
    "freeze",
    "descriptors",
]

CHECK = """
import asyncio, sys
import anyio._backends._asyncio
from sandlock_async.cli.app import run
from descriptors import become

asyncio.run(asyncio.sleep(0))
become(int(sys.argv.pop(1)))
sys.exit(run())
"""

QUIET = """
import ctypes, os, sys
os.setresuid(*[int(sys.argv[1])] * 3)
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
input()
"""

TRACE = """
import sys
from sandlock_async.kernel import ptrace
ptrace.seize(int(sys.argv[1]))
print("traced", flush=True)
input()
"""

FILTERED = """
import ctypes, os, struct, sys
number, answer = int(sys.argv[1]), int(sys.argv[2], 16)
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, answer), (6, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *it) for it in code))
head = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", 4, ctypes.addressof(program)))
prctl = ctypes.CDLL(None).prctl
prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert prctl(22, 2, ctypes.addressof(head), 0, 0) == 0  # PR_SET_SECCOMP
os.execvp(sys.argv[3], sys.argv[3:])
"""
EPERM, ENOSYS = 0x50001, 0x50026
PTRACE, PROCESS_VM_READV, PIDFD_OPEN = 101, 310, 434

on_x86_64 = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="needs the numbers of x86-64"
)
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")


def by_name(found: sa.Preflight) -> dict[str, sa.Check]:
    checks = {this.name: this for this in found.checks}
    assert len(checks) == len(found.checks)
    assert found.ok == all(this.ok for this in found.checks)
    assert all(this.reason for this in found.checks)
    return checks


async def refusal(target: object, **options: object) -> sa.Check:
    """Return the only "no"."""
    found = await sa.check(target, **options)  # type: ignore[arg-type]
    (no,) = [this for this in found.checks if not this.ok]
    return no


def children() -> set[str]:
    return {
        pid
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    }


async def test_the_kernel() -> None:
    before = children()

    found = await sa.check()

    assert list(by_name(found)) == KERNEL
    assert found.ok, found
    assert children() == before


async def test_a_process_of_ours(spawn: Callable[..., Tracee], tmp_path: Path) -> None:
    tracee = spawn("big.py", 1 << 20, 1)
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.update(tracee.tracers())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = await sa.check(tracee.pid, tmp_path / "store" / "it")
    finally:
        done.set()
        watcher.join()

    checks = by_name(found)
    assert found.ok, found
    assert list(checks) == [*KERNEL, *PROCESS, "directory", "disk_space"]
    assert f"{tracee.pid} (python" in checks["process"].reason
    assert "estimate" in checks["freeze"].reason
    assert os.listdir(tmp_path) == ["status-0"]
    assert seen == {"0"}
    tracee.check_runs_on()


async def test_the_stop_of_no_child_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    stops: list[object] = []

    def handler(*_: object) -> None:
        told.append(1)
        for pid in children():
            flags = os.WSTOPPED | os.WNOHANG
            stops.append(os.waitid(os.P_PID, int(pid), flags))

    before = signal.signal(signal.SIGCHLD, handler)
    try:
        await sa.check()
    finally:
        signal.signal(signal.SIGCHLD, before)

    assert not any(stops)


@pytest.mark.parametrize("strategy", ["auto", "direct", "fork"])
@pytest.mark.parametrize("memory_limit", [64 << 10, 256 << 20])
async def test_the_strategy_is_that_of_a_capture(
    strategy: str, memory_limit: int, spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("big.py", 32 << 20, 1)

    checks = by_name(
        await sa.check(tracee.pid, strategy=strategy, memory_limit=memory_limit)
    )
    report = await sa.capture_to(
        tracee.pid,
        tmp_path / "it",
        strategy=strategy,
        memory_limit=memory_limit,
        durable=False,
    )

    chosen = checks["strategy"].reason
    assert chosen.startswith(f"{report.strategy}: ")
    assert report.reason.endswith(chosen.partition(": ")[2])
    spilled = "written while" in report.reason
    assert ("memory_limit" in checks["freeze"].reason) == spilled
    stated = re.search(r"at most about ([\d.]+) MiB", checks["memory"].reason)
    assert stated is not None
    assert float(stated[1]) + 1 > report.written_bytes / (1 << 20)


async def test_who_is_gone_or_none(sleeper: "subprocess.Popen[bytes]") -> None:
    gone = await refusal(4194304)
    assert (gone.name, gone.reason) == ("process", "process 4194304 is gone")
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    ended = await refusal(sleeper.pid)
    assert "has ended" in ended.reason
    assert gone.help and ended.help
    for wrong in (0, os.getpid()):
        with pytest.raises(ValueError, match=r"process|pid"):
            await sa.check(wrong)
    with pytest.raises(ValueError, match="unknown strategy"):
        await sa.check(strategy="guess")


async def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    (no,) = (await sa.check()).checks
    monkeypatch.undo()
    assert (no.name, no.ok) == ("threads", False)
    assert "ulimit -u" in no.help


async def test_too_few_files_can_be_opened() -> None:
    await sa.check()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = set(map(int, os.listdir("/proc/self/fd")))
    free = [number for number in range(before[0]) if number not in taken]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[10], before[1]))
    try:
        found = await sa.check()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    (no,) = (this for this in found.checks if not this.ok)
    assert no.name == "open_files"
    assert "ulimit -n" in no.help


async def test_whoever_is_found_in_its_place_is_not_told_of(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Target, "is_there", lambda _: False)
    found = await sa.check(sleeper.pid)
    (no,) = found.checks[len(KERNEL) :]
    assert no.name == "process"
    assert "given anew" in no.reason


async def test_a_thread_of_the_kernel() -> None:
    stat = Path("/proc/2/stat")
    if not stat.exists() or "(kthreadd)" not in stat.read_text():
        pytest.skip("needs the first pid namespace")
    no = await refusal(2)
    assert (no.name, "thread of the kernel" in no.reason) == ("process", True)
    assert no.help


async def test_the_number_of_a_thread(spawn: Callable[..., Tracee]) -> None:
    tracee = spawn("threads")
    tid = next(
        int(this.name) for this in tracee.threads() if this.name != f"{tracee.pid}"
    )
    no = await refusal(tid)
    assert "number of a thread" in no.reason
    assert no.help


@contextmanager
def traced(pid: int) -> Iterator[int]:
    """Have another process trace one; yield the pid of that."""
    command = [sys.executable, "-c", TRACE, str(pid)]
    with subprocess.Popen(command, stdin=-1, stdout=-1) as tracer:
        try:
            assert tracer.stdout is not None
            assert tracer.stdout.readline() == b"traced\n"
            yield tracer.pid
        finally:
            tracer.kill()


async def test_somebody_elses_tracee(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    with traced(sleeper.pid) as tracer:
        no = await refusal(sleeper.pid)
        with pytest.raises(sa.NotPermittedError) as caught:
            await sa.capture_to(sleeper.pid, tmp_path / "it")
    assert no.name == "tracer"
    assert f"by process {tracer} (" in no.reason
    assert (no.reason, no.help) == (caught.value.reason, caught.value.help)
    assert (await sa.check(sleeper.pid)).ok


def check_as(user: int, *arguments: object) -> dict[str, dict[str, object]]:
    """Return what the command says to somebody else."""
    path = os.pathsep.join([str(PROGRAMS), str(PROGRAMS.parent.parent)])
    command = [sys.executable, "-c", CHECK, user, "check", *arguments, "--json"]
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
        timeout=60,
    )
    told = orjson.loads(done.stdout)
    assert told["ok"] == (done.returncode == 0), done.stderr.decode()
    return {this["name"]: this for this in told["checks"]}


def status_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/status").read_bytes()


@as_root
async def test_processes_of_others(sleeper: "subprocess.Popen[bytes]") -> None:
    other = subprocess.Popen(["sleep", "60"], user=SOMEBODY, group=SOMEBODY)
    quiet = subprocess.Popen(
        [sys.executable, "-c", QUIET, str(SOMEBODY)], stdin=subprocess.PIPE
    )
    try:
        until(lambda: b"\nUid:\t%d" % SOMEBODY in status_of(quiet.pid), "another user")
        until(lambda: os.stat(f"/proc/{quiet.pid}/mem").st_uid == 0, "to be hidden")
        found = by_name(await sa.check(other.pid))
        hidden = by_name(await sa.check(quiet.pid))
        roots, theirs, undumpable = (
            check_as(SOMEBODY, process.pid) for process in (sleeper, other, quiet)
        )
    finally:
        for process in (other, quiet):
            process.kill()
            process.communicate()

    assert all(this.ok for this in found.values())
    assert found["uid"].reason == f"it runs as uid {SOMEBODY}, we as 0"
    assert found["dumpable"].reason == "it is"
    assert hidden["permission"].ok
    assert "it is not" in hidden["dumpable"].reason

    for checks, why in ((roots, "belongs to uid 0"), (undumpable, "not dumpable")):
        assert not checks["permission"]["ok"]
        assert why in str(checks["permission"]["reason"])
        assert checks["permission"]["help"]
        assert "memory" not in checks
    if "ptrace_scope" not in str(theirs["yama"]["reason"]):
        assert all(this["ok"] for this in theirs.values()), theirs


def test_yama_forbids_siblings(sleeper: "subprocess.Popen[bytes]") -> None:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.getuid() or not scope.exists():
        pytest.skip("needs root, and Yama")
    before = scope.read_text()
    other = subprocess.Popen(["sleep", "60"], user=SOMEBODY, group=SOMEBODY)
    try:
        scope.write_text("1")
        theirs = check_as(SOMEBODY, other.pid)
    finally:
        scope.write_text(before)
        other.kill()
        other.wait()
    assert theirs["ptrace"]["ok"]
    assert not theirs["permission"]["ok"]
    assert "descendants" in str(theirs["permission"]["reason"])


@on_x86_64
@pytest.mark.parametrize(
    ("number", "answer", "name"),
    [
        (PTRACE, EPERM, "ptrace"),
        (PTRACE, ENOSYS, "ptrace"),
        (PROCESS_VM_READV, EPERM, "process_vm_readv"),
        (PIDFD_OPEN, ENOSYS, "pidfd"),
    ],
)
def test_what_a_filter_takes_away(number: int, answer: int, name: str) -> None:
    command = [sys.executable, "-m", "sandlock_async", "check", "--json"]
    filtered = [sys.executable, "-c", FILTERED, str(number), hex(answer), *command]

    done = subprocess.run(filtered, capture_output=True, check=False, timeout=60)

    assert done.returncode == 3, done.stderr.decode()
    told = orjson.loads(done.stdout)
    refused = {this["name"]: this for this in told["checks"] if not this["ok"]}
    assert list(refused) == [name]
    assert "seccomp" in refused[name]["help"]


@on_x86_64
async def test_a_filter_over_the_target() -> None:
    command = [sys.executable, "-c", FILTERED, str(PTRACE), hex(EPERM), "sleep", "60"]
    with subprocess.Popen(command) as process:
        try:
            comm = Path(f"/proc/{process.pid}/comm")
            until(lambda: comm.read_text() == "sleep\n", "the program to be there")
            checks = by_name(await sa.check(process.pid, strategy="fork"))
        finally:
            process.kill()
    assert all(this.ok for this in checks.values())
    assert checks["seccomp"].reason == "filter (1)"
    assert "seccomp filter that is not sandlock's" in checks["clone"].reason
    assert checks["clone"].help
    assert checks["strategy"].reason.startswith("direct: no fork")


async def test_whoever_would_be_misled(sleeper: "subprocess.Popen[bytes]") -> None:
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        no = await refusal(sleeper.pid)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert no.name == "waiters"
    assert "SIGCHLD" in no.reason
    assert no.help


async def test_a_full_disk_is_known_before_the_freeze(
    spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("big.py", 4 << 20, 1)
    mount = tmp_path / "small"
    mount.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", mount):
        no = await refusal(tracee.pid, directory=mount / "deep" / "it")
        events: list[object] = []
        with pytest.raises(sa.NoSpaceError) as caught:
            await sa.capture_to(
                tracee.pid, mount / "deep" / "it", on_event=events.append
            )
        assert os.listdir(mount) == []
    assert no.name == "disk_space"
    assert f" {caught.value.needed} bytes needed" in no.reason
    assert no.help == caught.value.help
    assert events == []
    tracee.check_runs_on()


@pytest.mark.parametrize("options", ["size={}k", "size=1g,nr_inodes={}"])
async def test_what_a_check_calls_enough_is_enough(
    options: str, sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    for size in range(16, 1024, 8):
        with mounted("-t", "tmpfs", "-o", options.format(size), "tmpfs", mount):
            if (await sa.check(sleeper.pid, mount / "it")).ok:
                await sa.capture_to(sleeper.pid, mount / "it")
                return
    raise AssertionError("it is never enough")


async def test_something_is_there(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it")

    no = await refusal(sleeper, directory=tmp_path / "it")

    assert no.name == "directory"
    assert "exists already" in no.reason
    assert (await sa.check(sleeper, tmp_path / "it", replace=True)).ok


def test_descriptors_that_no_image_can_hold(
    spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    tracee = spawn("descriptors.py", folder)
    fds: dict[str, int] = json.loads((folder / "fds.json").read_text())

    def look() -> dict[int, str]:
        with open_target(tracee.pid) as found:
            return find_unheld(found)

    unheld = look()
    checks = by_name(asyncio.run(sa.check(tracee.pid)))

    for name, what in {
        "fifo": "named pipe",
        "deleted": "deleted",
        "master": "terminal",
        "slave": "terminal",
        "memfd": "memfd",
        "inotify": "inotify",
        "stream1": "2 descriptors in flight",
        "tcp1": "socket (inet stream) to 127.0.0.1:",
    }.items():
        assert what in unheld[fds[name]], name
    held = [
        "file",
        "pipe0",
        "pipe1",
        "empty0",
        "plain0",
        "dgram1",
        "eventfd",
        "timerfd",
        "epoll",
        "null",
        "tcp0",
    ]
    assert not unheld.keys() & {fds[name] for name in held}
    assert checks["descriptors"].ok
    assert re.search(r"and \d+ more$", checks["descriptors"].reason)
    assert checks["descriptors"].help
    os.kill(tracee.pid, signal.SIGUSR1)
    until(lambda: tracee.status[PROGRESS] == 1, "the program to look after its own")
    assert tracee.status[ERRORS] == 0


async def test_descendants(tmp_path: Path) -> None:
    script = "sleep 60 & sleep 60 & echo ready; wait"
    with subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True
    ) as shell:
        try:
            assert shell.stdout is not None
            shell.stdout.readline()
            path = f"/proc/{shell.pid}/task/{shell.pid}/children"
            first, second = map(int, Path(path).read_text().split())
            alone = by_name(await sa.check(shell.pid))
            all_ = by_name(await sa.check(shell.pid, tree=True))
            with traced(second) as tracer:
                no = await refusal(shell.pid, tree=True)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    assert "descendants" not in alone
    assert f"{first} (" in all_["descendants"].reason
    assert f"{second} (" in all_["descendants"].reason
    assert all_["memory"].reason != alone["memory"].reason
    assert no.name == "descendants"
    assert f"process {tracer} (" in no.reason


def test_the_command(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    fine = run("check", sleeper.pid, "--directory", tmp_path / "it", "--json")
    text = run("check", sleeper.pid)
    bare = run("check", "--json")
    gone, gone_text = run("check", 4194304, "--json"), run("check", 4194304)

    assert fine.returncode == text.returncode == bare.returncode == 0
    told = orjson.loads(fine.stdout)
    assert told.keys() == {"ok", "checks"}
    assert told["ok"] is True
    for this in told["checks"]:
        assert this.keys() == {"name", "ok", "reason", "help"}
    assert [this["name"] for this in orjson.loads(bare.stdout)["checks"]] == KERNEL
    assert text.stdout == b""
    assert b"nothing is in the way" in text.stderr
    assert gone.returncode == gone_text.returncode == 3
    assert orjson.loads(gone.stdout)["ok"] is False
    assert b"process 4194304 is gone" in gone_text.stderr
    assert run("check", "abc").returncode == 2
    assert run("check", "--strategy", "guess", "--json").returncode == 2
    assert os.listdir(tmp_path) == []
