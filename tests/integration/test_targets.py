"""Programs that make it hard: each is captured twenty times and runs on unharmed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import sandlock_async as sa
from sandlock_async.snapshot.survey import survey
from sandlock_async.target import open_target
from tests.conftest import PROGRAMS, Tracee, missing, until
from tests.programs.status import FIRST, PROGRESS, SECOND

TIMES = 20
pytestmark = pytest.mark.usefixtures("nothing_left")


async def capture_often(
    tracee: Tracee, store: Path, times: int = TIMES, **options: object
) -> list[sa.CaptureReport]:
    reports = []
    for _ in range(times):
        report = await sa.capture_to(
            tracee.pid, store / "it", replace=True, durable=False, **options
        )  # type: ignore[arg-type]
        reports.append(report)
        tracee.check_runs_on()
        assert tracee.copies() == []
    assert os.listdir(store) == ["it"]
    return reports


both = pytest.mark.parametrize("strategy", ["direct", "fork"])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@both
async def test_sixteen_threads(
    strategy: str, spawn: Callable[..., Tracee], store: Path
) -> None:
    tracee = spawn("threads")

    reports = await capture_often(tracee, store, strategy=strategy)

    assert {report.threads for report in reports} == {16}
    async with await sa.Checkpoint.load(store / "it") as checkpoint:
        threads = checkpoint.process_state.threads
        assert threads[0].tid == tracee.pid
        assert {thread.tid for thread in threads} == {
            int(task.name) for task in tracee.threads()
        }


@both
async def test_threads_that_come_and_go(
    strategy: str, spawn: Callable[..., Tracee], store: Path
) -> None:
    await capture_often(spawn("churn"), store, strategy=strategy)


@both
@pytest.mark.parametrize("program", ["exec_loop", "exec_loop.py"])
async def test_exec_in_a_loop(
    program: str, strategy: str, spawn: Callable[..., Tracee], store: Path
) -> None:
    times = 100 if program == "exec_loop" else TIMES
    await capture_often(spawn(program, 0), store, times, strategy=strategy)


@pytest.mark.parametrize("every", [1 << 20, 8], ids=["untouched", "every-8th-page"])
async def test_a_mapping_of_a_gibibyte(
    every: int, spawn: Callable[..., Tracee], store: Path
) -> None:
    tracee = spawn("big.py", 1 << 30, every)

    reports = await capture_often(tracee, store)

    assert reports[-1].captured_bytes > 1 << 30
    assert reports[-1].skipped == ()
    async with await sa.Checkpoint.load(store / "it") as checkpoint:
        big = max(checkpoint.process_state.memory_data, key=lambda this: len(this.data))
        assert len(big.data) >= 1 << 30
        # Adjacent anonymous memory may have joined the mapping below it.
        base = len(big.data) - (1 << 30)
        marks = [
            page
            for page in range(0, (1 << 30) // 4096, every)
            if big.data[base + page * 4096 : base + page * 4096 + 8]
            == page.to_bytes(8, "little")
        ]
        assert len(marks) >= tracee.status[FIRST] - 1


async def test_memory_beyond_the_budget(
    spawn: Callable[..., Tracee], store: Path
) -> None:
    # GIVEN 64 MiB dense, and room for 4
    tracee = spawn("big.py", 64 << 20, 1)

    report = (
        await capture_often(tracee, store, 3, strategy="direct", memory_limit=4 << 20)
    )[-1]

    assert "did not fit" in report.reason
    async with (
        await sa.Checkpoint.load(store / "it") as checkpoint,
        await sa.capture(tracee.pid) as whole,
    ):
        marks = marks_of(checkpoint)
        assert marks == marks_of(whole)
        assert marks >= (64 << 20) // 4096 - 1


def marks_of(checkpoint: sa.Checkpoint) -> int:
    big = max(checkpoint.process_state.memory_data, key=lambda this: len(this.data))
    base = len(big.data) - (64 << 20)
    data = bytes(big.data)[base:]
    return sum(
        data[page * 4096 : page * 4096 + 8] == page.to_bytes(8, "little")
        for page in range((64 << 20) // 4096)
    )


@both
async def test_a_thousand_signals_a_second(
    strategy: str, spawn: Callable[..., Tracee], store: Path
) -> None:
    tracee = spawn("signals")

    await capture_often(tracee, store, strategy=strategy)

    sent = tracee.status[FIRST]
    until(lambda: tracee.status[PROGRESS] >= sent, "every signal to arrive")
    tracee.check_runs_on()


async def test_pages_that_cannot_be_read(
    spawn: Callable[..., Tracee], store: Path, tmp_path: Path
) -> None:
    # GIVEN missing pages of a userfaultfd, a guard page, a file that ends early
    try:
        tracee = spawn("missing_pages", tmp_path / "short")
    except AssertionError as error:
        if "ended with 5" not in str(error):
            raise
        missing("userfaultfd(2)")
        return
    reports = await capture_often(tracee, store)

    skipped = {this.start: this for this in reports[-1].skipped}
    uffd, guarded = tracee.status[FIRST], tracee.status[SECOND]
    secret, file = tracee.status[SECOND + 2], tracee.status[SECOND + 3]
    assert "userfaultfd" in skipped[uffd + 4096].reason
    assert skipped[uffd + 4096].end == uffd + 3 * 4096
    assert "end of the mapped file" in skipped[file + 4096].reason
    if tracee.status[SECOND + 1]:
        assert skipped[guarded + 4096].end == guarded + 2 * 4096
    async with await sa.Checkpoint.load(store / "it") as checkpoint:
        assert memory_at(checkpoint, uffd, 8192) == b"u" * 4096 + bytes(4096)
        assert memory_at(checkpoint, guarded + 8192, 4096) == b"g" * 4096
        assert memory_at(checkpoint, secret, 8192) == b"w" * 8192
        assert memory_at(checkpoint, file, 8) == b"file" + bytes(4)


def memory_at(checkpoint: sa.Checkpoint, address: int, size: int) -> bytes:
    for segment in checkpoint.process_state.all_segments():
        if segment.start <= address and address + size <= segment.end:
            offset = address - segment.start
            return segment.data[offset : offset + size]
    raise AssertionError(f"{address:#x} is in no segment")


async def test_a_stopped_program_stays_stopped(
    sleeper: "subprocess.Popen[bytes]", store: Path
) -> None:
    tracee = Tracee(sleeper, None)  # type: ignore[arg-type]
    sleeper.send_signal(signal.SIGSTOP)
    until(lambda: tracee.state == "T", "group-stop")

    for _ in range(TIMES):
        await sa.capture_to(sleeper, store / "it", replace=True, durable=False)

        until(lambda: tracee.tracers() == {"0"} and tracee.state == "T", "state T")

    sleeper.send_signal(signal.SIGCONT)
    until(lambda: tracee.state == "S", "sleep to go on")


@both
async def test_two_places_of_one_counter_agree(
    strategy: str, spawn: Callable[..., Tracee], store: Path
) -> None:
    tracee = spawn("twins")
    first, second = tracee.status[FIRST], tracee.status[SECOND]

    for _ in range(50):
        (report,) = await capture_often(tracee, store, 1, strategy=strategy)
        assert report.strategy == strategy, report.reason
        async with await sa.Checkpoint.load(store / "it") as checkpoint:
            one = int.from_bytes(memory_at(checkpoint, first, 8), "little")
            other = int.from_bytes(memory_at(checkpoint, second, 8), "little")

        assert 0 <= one - other <= 1

    tracee.check_runs_on()


async def test_a_thread_that_cannot_be_stopped(spawn: Callable[..., Tracee]) -> None:
    tracee = spawn("vfork_wait", 1500)
    until(lambda: tracee.state == "D", "vfork")

    with pytest.raises(sa.FreezeTimeoutError, match="state D") as caught:
        await sa.capture(tracee.pid, timeout=0.3)

    assert isinstance(caught.value, TimeoutError)
    assert caught.value.pid == tracee.pid
    tracee.check_runs_on()


async def test_a_main_thread_that_has_ended(spawn: Callable[..., Tracee]) -> None:
    tracee = spawn("dead_leader")
    until(lambda: tracee.state == "Z", "end of the main thread")

    with pytest.raises(sa.UncapturableError, match="main thread"):
        await sa.capture(tracee.pid)

    tracee.check_runs_on()


async def test_killed_while_frozen(
    tmp_path: Path, spawn: Callable[..., Tracee]
) -> None:
    tracee = spawn("big.py", 64 << 20, 1)

    def kill(event: sa.Event) -> None:
        if isinstance(event, sa.Frozen):
            tracee.process.kill()

    with pytest.raises(sa.ProcessGoneError):
        await sa.capture_to(
            tracee.pid,
            tmp_path / "it",
            strategy="direct",
            memory_limit=0,
            on_event=kill,
        )

    assert not (tmp_path / "it").exists()
    assert tracee.process.wait() == -signal.SIGKILL


async def test_a_loop_that_does_not_come_back(
    tmp_path: Path, spawn: Callable[..., Tracee]
) -> None:
    # GIVEN an application that keeps the event loop for longer than the timeout
    tracee = spawn("big.py", 64 << 20, 1)
    thawed: list[bool] = []

    def block(event: sa.Event) -> None:
        if isinstance(event, sa.Progress) and not thawed:
            before, deadline = tracee.status[PROGRESS], time.monotonic() + 20
            while tracee.status[PROGRESS] == before:
                assert time.monotonic() < deadline, "frozen as long as the loop"
            thawed.append(True)

    with pytest.raises(sa.FreezeTimeoutError):
        await sa.capture_to(
            tracee.pid,
            tmp_path / "it",
            strategy="direct",
            memory_limit=0,
            timeout=0.5,
            on_event=block,
        )

    assert thawed
    tracee.check_runs_on()


async def test_an_event_handler_that_fails(
    tmp_path: Path, spawn: Callable[..., Tracee]
) -> None:
    tracee = spawn("signals")

    def fail(event: sa.Event) -> None:
        if isinstance(event, sa.Frozen):
            raise ZeroDivisionError

    for _ in range(TIMES):
        with pytest.raises(ZeroDivisionError):
            await sa.capture_to(
                tracee.pid,
                tmp_path / "it",
                strategy="direct",
                memory_limit=0,
                on_event=fail,
            )

    sent = tracee.status[FIRST]
    until(lambda: tracee.status[PROGRESS] >= sent, "every signal to arrive")
    tracee.check_runs_on()


async def test_a_mapped_file_that_is_written_to(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    # GIVEN a program with a private, writable mapping of a file, never touched
    data = tmp_path / "data"
    data.write_bytes(b"A" * (1 << 20))
    code = f"""
import mmap, sys
with open({str(data)!r}, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE)
print("ready", flush=True); sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        async with await sa.capture(process) as checkpoint:
            (segment,) = [
                this
                for this in checkpoint.process_state.memory_data
                if len(this.data) == 1 << 20
            ]
            assert segment.data[:4] == b"AAAA"
            data.write_bytes(b"B" * (1 << 20))
            with pytest.raises(sa.UncapturableError, match="written to"):
                bytes(segment.data)
        process.communicate()


async def test_shared_memory_to_its_last_byte(tmp_path: Path) -> None:
    # GIVEN a memfd of 100 bytes, with more behind its end, mapped beyond that
    code = """
import ctypes, mmap, os, sys
fd = os.memfd_create("short")
os.truncate(fd, 3 * 4096)
memory = mmap.mmap(fd, 3 * 4096)
os.truncate(fd, 100)
memory[:2000] = b"M" * 2000
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
sys.stdin.read()
os._exit(0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        address = int(process.stdout.readline())
        report = await sa.capture_to(process, tmp_path / "it", format="v2")
        process.communicate()

    async with await sa.Checkpoint.load(tmp_path / "it") as checkpoint:
        assert memory_at(checkpoint, address, 4096) == b"M" * 2000 + bytes(2096)
    (skipped,) = [this for this in report.skipped if this.path.startswith("/memfd")]
    assert (skipped.start, skipped.end) == (address + 4096, address + 3 * 4096)


async def test_no_such_process(sleeper: "subprocess.Popen[bytes]") -> None:
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)

    with pytest.raises(sa.ProcessGoneError) as zombie:
        await sa.capture(sleeper.pid)
    sleeper.wait()
    with pytest.raises(ProcessLookupError) as gone:
        await sa.capture(sleeper.pid)

    assert "ended" in str(zombie.value)
    assert gone.value.errno == 3


def test_one_that_ends_after_the_first_look(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    with open_target(sleeper) as target:
        sleeper.kill()
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)

        with pytest.raises(sa.ProcessGoneError, match="ended"):
            survey(target)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (None, ValueError),
        (0, ValueError),
        (-5, ValueError),
        (True, TypeError),
        ("1", TypeError),
        (os.getpid(), ValueError),
        (1.5, TypeError),
    ],
)
async def test_what_is_no_target(target: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        await sa.capture(target)


async def test_a_debugger_is_named(sleeper: "subprocess.Popen[bytes]") -> None:
    code = f"""
import sys; sys.path.insert(0, {str(PROGRAMS.parents[1])!r})
from sandlock_async.kernel import ptrace
ptrace.seize({sleeper.pid}); print("seized", flush=True); sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as tracer:
        assert tracer.stdout is not None
        if tracer.stdout.readline() != b"seized\n":
            missing("the right to trace a sibling process (Yama)")

        with pytest.raises(sa.NotPermittedError, match=str(tracer.pid)) as caught:
            await sa.capture(sleeper)

        assert isinstance(caught.value, PermissionError)
        assert caught.value.help
        tracer.communicate()
