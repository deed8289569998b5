"""A clone is asked, and the program never knows."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sandlock_async as sa
from sandlock_async.injection import search
from sandlock_async.injection.gadgets import Gadgets
from sandlock_async.procfs.maps import Mapping, parse_maps
from sandlock_async.snapshot.asking import Asking
from tests.conftest import Tracee, missing, on_one_cpu, until
from tests.integration.wheels import READABLE
from tests.programs.status import ERRORS, FIRST

pytestmark = pytest.mark.usefixtures("nothing_left")

CAPTURE_FOR_EVER = """
import asyncio, sys
import sandlock_async as sa

async def main():
    while True:
        await sa.capture_to(int(sys.argv[1]), sys.argv[3], strategy=sys.argv[2],
            replace=True, durable=False)

asyncio.run(main())
"""


SIG_IGN = 1
STACK_POINTER = 19  # word of NT_PRSTATUS


@pytest.fixture(autouse=True)
def able() -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("needs x86-64 (clones are made there only)")


def handlers(checkpoint: sa.Checkpoint) -> dict[int, Any] | None:
    details = checkpoint.process_state.details
    assert details is not None
    if details.signals.handlers is None:
        return None
    return {action.signal: action for action in details.signals.handlers}


def handled(actions: dict[int, Any]) -> set[int]:
    """Return the signals that are not ignored, as some may be from the start."""
    return {signum for signum, this in actions.items() if this.handler != SIG_IGN}


async def test_no_wait_is_cut_short_and_no_signal_lost(
    spawn: Callable[..., Tracee],
) -> None:
    tracee = spawn("unnoticed")

    for _ in range(150):
        async with await sa.capture(tracee.pid) as checkpoint:
            found = handlers(checkpoint)
            # None while a signal was on its way to the main thread.
            assert found is None or handled(found) == {signal.SIGALRM}

    tracee.check_runs_on()
    assert tracee.status[FIRST] == 0
    assert len(tracee.threads()) == 1


@pytest.fixture
def handler(spawn: Callable[..., Tracee]) -> Tracee:
    """A program that pauses, and handles a signal."""
    return spawn("states")


async def test_the_stack_is_as_it_was(handler: Tracee) -> None:
    before = stack_of(handler.pid)

    async with await sa.capture(handler.pid) as checkpoint:
        assert handlers(checkpoint)
        start, content = before
        state = checkpoint.process_state
        captured = next(this for this in state.memory_data if this.start == start)
        below = state.regs[STACK_POINTER] - start
        assert bytes(captured.data)[:below] == content[:below]

    assert stack_of(handler.pid)[1][:below] == content[:below]


async def test_who_handles_no_signal_is_not_asked(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    # It would take longer than the rest of the freeze, and tell hardly anything.
    async with await sa.capture(sleeper.pid) as checkpoint:
        details = checkpoint.process_state.details
        assert details is not None
        assert details.signals.handlers is not None
        assert all(this.handler == SIG_IGN for this in details.signals.handlers)
        assert details.timers is None
        assert details.layout.brk is None


def stack_of(pid: int) -> tuple[int, bytes]:
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    line = next(line for line in maps if line.endswith("[stack]"))
    start, end = (int(edge, 16) for edge in line.split()[0].split("-"))
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        file.seek(start)
        return start, file.read(end - start)


@pytest.mark.parametrize("rounds", [20, pytest.param(500, marks=pytest.mark.soak)])
@pytest.mark.parametrize("strategy", ["direct", "fork"])
async def test_whenever_we_are_killed_the_program_goes_on(
    strategy: str, rounds: int, spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("unnoticed", "early")
    environment = {**os.environ, "PYTHONPATH": str(Path(sa.__file__).parents[1])}

    for number in range(rounds):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CAPTURE_FOR_EVER, str(tracee.pid), strategy),
            str(tmp_path / "it"),
            env=environment,
        )
        await asyncio.to_thread(
            until, lambda: "0" not in tracee.tracers(), "the first freeze"
        )
        await asyncio.sleep(number * 0.00037 % 0.01)  # anywhere in the captures
        process.kill()
        await process.wait()
        tracee.check_runs_on()

    assert tracee.status[ERRORS] == 0
    assert len(tracee.threads()) == 1
    # A copy that was left ends by itself, and the next capture reaps it.
    until(lambda: all(map(is_zombie, tracee.copies())), "the copies to end")
    report = await sa.capture_to(tracee.pid, tmp_path / "it", replace=True)
    assert report.warnings == ()
    assert tracee.copies() == []


def is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


async def test_a_stopped_program_is_not_asked(handler: Tracee, tmp_path: Path) -> None:
    handler.process.send_signal(signal.SIGSTOP)
    until(lambda: handler.state == "T", "it to stop")

    report = await sa.capture_to(handler.pid, tmp_path / "it")

    assert [warning for warning in report.warnings if "handlers" in warning]
    assert "stop" in report.warnings[0]
    assert handler.state == "T"
    async with await sa.Checkpoint.load(tmp_path / "it") as checkpoint:
        assert handlers(checkpoint) is None


def test_what_an_execve_hides_is_not_remembered(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a look at where everything was before it
    monkeypatch.setattr(search, "_KNOWN", {})
    mappings = parse_maps(Path(f"/proc/{sleeper.pid}/maps").read_bytes())
    old = [moved(mapping, -1 << 36) for mapping in mappings]
    assert not search.search_gadgets(sleeper.pid, old).usable

    assert search.search_gadgets(sleeper.pid, mappings).usable
    # THEN by what is remembered, too
    assert search.search_gadgets(sleeper.pid, mappings).usable


def test_what_another_program_has_overwritten(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    mappings = parse_maps(Path(f"/proc/{sleeper.pid}/maps").read_bytes())
    monkeypatch.setattr(search, "_KNOWN", {})
    with monkeypatch.context() as patch:
        patch.setattr(search, "find_gadgets", lambda _: Gadgets())
        assert not search.search_gadgets(sleeper.pid, mappings).usable

    assert search.search_gadgets(sleeper.pid, mappings).usable


def moved(mapping: Mapping, distance: int) -> Mapping:
    this = mapping.map
    start, end = this.start + distance, this.end + distance
    return mapping._replace(map=replace(this, start=start, end=end))


@pytest.fixture
def python() -> Iterator[Callable[[str], "subprocess.Popen[bytes]"]]:
    """Run a Python program that prints a line when it is ready."""
    started: list[subprocess.Popen[bytes]] = []

    def run(program: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            ["/usr/bin/python3", "-c", program], stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            missing("a python3 in /usr/bin that may do this")
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


FILTERED = """
import ctypes, struct, time
# Kills the process for any clone(2): ld [nr]; jeq clone; kill; allow
rules = struct.pack("HBBIHBBIHBBIHBBI", 0x20,0,0,0, 0x15,0,1,56, 6,0,0,0x80000000,
    6,0,0,0x7fff0000)
buffer = ctypes.create_string_buffer(rules)
program = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, program, 0, 0) == 0
print("ready", flush=True)
time.sleep(60)
"""


async def test_a_program_with_a_filter_of_its_own_is_not_asked(
    python: Callable[[str], "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    process = python(FILTERED)

    report = await sa.capture_to(process.pid, tmp_path / "it")

    assert "seccomp" in report.warnings[0]
    assert process.poll() is None


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("dispatch", "dispatch its system calls"),
        ("step", "steps through"),
        ("patch", "changed"),
        ("crouch", "no room"),
    ],
)
async def test_a_program_that_would_not_survive_it(
    spawn: Callable[..., Tracee], tmp_path: Path, what: str, reason: str
) -> None:
    tracee = spawn("delicate", what)

    # What it does it does not do all the time.
    for _ in range(300):
        report = await sa.capture_to(
            tracee.pid, tmp_path / "it", replace=True, durable=False
        )
        if any(reason in warning for warning in report.warnings):
            break

    tracee.check_runs_on()
    assert reason in str(report.warnings)


LIMITED = """
import os, resource, time
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
print("ready", flush=True)
while True:
    time.sleep(0.001)
"""


async def test_a_clone_that_is_refused(
    python: Callable[[str], "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    process = python(LIMITED)

    for _ in range(20):
        report = await sa.capture_to(process.pid, tmp_path / "it", replace=True)
        assert "EAGAIN" in report.warnings[0]

    assert process.poll() is None
    assert len(os.listdir(f"/proc/{process.pid}/task")) == 1


async def test_in_a_sandbox_with_few_processes() -> None:
    # sandlock counts processes, not threads: none is missing afterwards.
    sandlock = pytest.importorskip("sandlock")
    box = sandlock.Sandbox(fs_readable=READABLE, max_processes=4)
    try:
        box.spawn(
            ["/bin/sh", "-c", "sleep 0.1; while /bin/true; do read x </dev/null; done"]
        )
    except Exception as error:  # noqa: BLE001
        missing(f"a kernel with Landlock: {error}")
    try:
        asked = 0
        for _ in range(40):
            async with await sa.capture(box.pid) as checkpoint:
                asked += handlers(checkpoint) is not None
        assert asked > 20
        assert Path(f"/proc/{box.pid}/stat").exists()
    finally:
        box.kill()
        box.wait()


STOP_THE_CLONE = """
import ctypes, os, sys
pid = int(sys.argv[1])
stopped = {pid}
tgkill = ctypes.CDLL(None).syscall
print("ready", flush=True)
while True:
    for tid in map(int, os.listdir(f"/proc/{pid}/task")):
        if tid not in stopped:
            tgkill(234, pid, tid, 19)  # SIGSTOP
            stopped.add(tid)
"""


async def test_a_stop_that_catches_the_clone(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    os.setpriority(os.PRIO_PROCESS, sleeper.pid, 19)
    stat = Path(f"/proc/{sleeper.pid}/stat")
    command = [sys.executable, "-c", STOP_THE_CLONE, str(sleeper.pid)]
    with on_one_cpu():  # the sleeper's, which has little of it then
        busy = subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"])
    stopper = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert stopper.stdout is not None
        stopper.stdout.readline()
        for _ in range(200):
            report = await sa.capture_to(
                sleeper.pid,
                tmp_path / "it",
                strategy="fork",
                replace=True,
                durable=False,
            )
            assert report.freeze_ms < 5000  # of 10,000 after which it is given up
            if ") T " in stat.read_text():
                break
        # THEN it has stopped, as its parent is told, and can go on
        until(lambda: ") T " in stat.read_text(), "it to stop")
        _, status = os.waitpid(sleeper.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
    finally:
        for process in (busy, stopper):
            process.kill()
            process.communicate()
    sleeper.send_signal(signal.SIGCONT)
    until(lambda: ") S " in stat.read_text(), "it to sleep on")
    assert os.listdir(f"/proc/{sleeper.pid}/task") == [str(sleeper.pid)]


SHARING = """
import mmap, os, time
fd = os.memfd_create("shared")
os.ftruncate(fd, 1 << 16)
memory = mmap.mmap(fd, 1 << 16)
memory[:] = b"x" * len(memory)
print("ready", flush=True)
time.sleep(60)
"""


async def test_killed_while_it_is_asked(
    python: Callable[[str], "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN shared memory, whose files are opened meanwhile
    process = python(SHARING)
    finish = Asking.finish

    def killed(asking: Asking, check_aborted: Callable[[], None]) -> Any:
        os.kill(process.pid, signal.SIGKILL)  # Popen.kill() waits for it first
        return finish(asking, check_aborted)

    monkeypatch.setattr(Asking, "advance", lambda _: None)
    monkeypatch.setattr(Asking, "finish", killed)

    with pytest.raises(sa.ProcessGoneError):
        await sa.capture(process.pid)
    # THEN nothing_left
