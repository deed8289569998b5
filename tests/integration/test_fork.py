"""A copy of the process is read after the freeze, and nothing of it stays."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import sandlock_async as sa
from sandlock_async.injection.questions import Answers
from sandlock_async.snapshot import window
from sandlock_async.snapshot.asking import Asking, Unasked
from sandlock_async.snapshot.forked import ForkedSource, _SnapshotBacking
from tests.conftest import Tracee, missing, until
from tests.integration.test_asking import is_zombie
from tests.integration.test_targets import memory_at
from tests.integration.wheels import READABLE

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(autouse=True)
def able() -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("needs x86-64 (copies are made there only)")


NOT_COPIED = """
import ctypes, mmap, sys, time
MADV_DONTFORK, MADV_WIPEONFORK = 10, 18
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
maps = [mmap.mmap(-1, 1 << 20, flags) for flags in
        (PRIVATE, PRIVATE, PRIVATE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)]
maps[1].madvise(MADV_DONTFORK)
maps[2].madvise(MADV_WIPEONFORK)
for number, this in enumerate(maps):
    this[:] = bytes([number + 1]) * len(this)
print(*(ctypes.addressof(ctypes.c_char.from_buffer(this)) for this in maps), flush=True)
while True:
    time.sleep(0.001)
"""


@pytest.fixture
def not_copied() -> Iterator[tuple[int, list[int]]]:
    """A program with memory that fork(2) does not copy: pid, and addresses."""
    process = subprocess.Popen(
        [sys.executable, "-c", NOT_COPIED], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    yield process.pid, [int(place) for place in process.stdout.readline().split()]
    process.kill()
    process.communicate()


async def test_what_a_fork_does_not_copy_is_there(
    not_copied: tuple[int, list[int]], tmp_path: Path
) -> None:
    pid, places = not_copied

    for name in ("v1", "v3"):
        report = await sa.capture_to(pid, tmp_path / name, strategy="fork", format=name)

        assert report.strategy == "fork", report.reason
        assert report.skipped == ()
        async with await sa.Checkpoint.load(tmp_path / name) as checkpoint:
            for number, place in enumerate(places):
                content = memory_at(checkpoint, place, 1 << 20)
                assert content == bytes([number + 1]) * (1 << 20)


async def test_the_same_image_whatever_the_strategy(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    # GIVEN a sleep that has been interrupted before: its registers tell
    async with await sa.capture(sleeper):
        pass

    reports = [
        await sa.capture_to(sleeper, tmp_path / strategy / "it", strategy=strategy)
        for strategy in ("direct", "fork")
    ]

    assert [report.strategy for report in reports] == ["direct", "fork"]
    direct, fork = (
        {
            path.relative_to(tmp_path / strategy): path.read_bytes()
            for path in (tmp_path / strategy).rglob("*")
            if path.is_file()
        }
        for strategy in ("direct", "fork")
    )
    # The kernel notes on the stack how long the sleep still is.
    # A copy comes with a clone, which knows the end of the heap, too.
    different = [
        path.name
        for path in direct
        if direct[path] != fork[path]
        and path.name not in ("process.json", "manifest.json")
    ]
    assert direct.keys() == fork.keys()
    assert len(different) <= 1, different


async def test_the_copy_holds_no_descriptor(
    spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("big.py", 64 << 20, 1)

    def look() -> list[str]:
        until(tracee.copies, "a copy")
        (copy,) = tracee.copies()
        folder = f"/proc/{copy}/fd"
        until(lambda: not os.listdir(folder), "it to close its descriptors")
        return os.listdir(folder)

    looking = asyncio.get_running_loop().run_in_executor(None, look)
    report = await sa.capture_to(tracee.pid, tmp_path / "it", strategy="fork")

    assert report.strategy == "fork", report.reason
    assert await looking == []
    assert tracee.copies() == []


def has_ended(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (ForkedSource, "look"),
        (ForkedSource, "_not_copied"),
        (_SnapshotBacking, "gather"),
    ],
    ids=["before it is looked at", "meanwhile", "before it is read"],
)
async def test_a_copy_that_is_killed(
    owner: type,
    step: str,
    spawn: Callable[..., Tracee],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracee = spawn("big.py", 64 << 20, 1)

    # That step is not taken before it has been killed, and it is not killed before.
    reached, killed = threading.Event(), threading.Event()
    taken = getattr(owner, step)

    def take_late(*arguments: Any) -> object:
        reached.set()
        killed.wait(20)
        return taken(*arguments)

    monkeypatch.setattr(owner, step, take_late)

    def kill() -> None:
        reached.wait(20)
        (copy,) = tracee.copies()
        os.kill(copy, signal.SIGKILL)
        until(lambda: has_ended(copy), "the end of the copy")
        killed.set()

    killing = asyncio.get_running_loop().run_in_executor(None, kill)
    with pytest.raises(sa.UncapturableError, match="copy of process") as caught:
        await sa.capture_to(tracee.pid, tmp_path / "it", strategy="fork")

    await killing
    assert "direct" in caught.value.help
    assert tracee.copies() == []
    assert os.listdir(tmp_path) == ["status-0"]
    tracee.check_runs_on()


async def test_a_copy_that_was_made_after_all(
    spawn: Callable[..., Tracee], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracee = spawn("unnoticed", "early")

    def given_up(_: Asking, __: Callable[[], None]) -> Answers | Unasked:
        monkeypatch.undo()
        raise sa.FreezeTimeoutError(tracee.pid, "freeze", "the clone is still at it")

    for _ in range(20):
        monkeypatch.setattr(Asking, "advance", lambda _: None)
        monkeypatch.setattr(Asking, "finish", given_up)
        with pytest.raises(sa.FreezeTimeoutError, match="at it"):
            await sa.capture_to(tracee.pid, tmp_path / "it", strategy="fork")
        assert tracee.copies() == []
        tracee.check_runs_on()


async def test_a_copy_whose_capture_fails_just_then(
    spawn: Callable[..., Tracee], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracee = spawn("unnoticed")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(window, "read_facts", fail)
    with pytest.raises(sa.SandlockAsyncError, match="Too many open files"):
        await sa.capture_to(tracee.pid, tmp_path / "it", strategy="fork")

    assert tracee.copies() == []
    tracee.check_runs_on()


@pytest.mark.parametrize("end", ["well", "error", "cancelled"])
async def test_a_copy_ends_while_the_disk_is_waited_for(
    end: str,
    spawn: Callable[..., Tracee],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN a disk that has not taken the memory before the copy has ended
    tracee = spawn("big.py", 64 << 20, 1)
    loop = asyncio.get_running_loop()
    ended: list[bool] = []

    def fsync(fd: int) -> None:
        if os.fstat(fd).st_size >= 64 << 20:
            until(lambda: all(map(is_zombie, tracee.copies())), "the copy to end")
            ended.extend(map(is_zombie, tracee.copies()))
            if end == "error":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if end == "cancelled":
                loop.call_soon_threadsafe(capture.cancel)
        once(fd)

    once = os.fsync
    monkeypatch.setattr(os, "fsync", fsync)
    capture = asyncio.ensure_future(
        sa.capture_to(tracee.pid, tmp_path / "it", strategy="fork")
    )
    expected = {"error": sa.StoreError, "cancelled": asyncio.CancelledError}

    with pytest.raises(expected[end]) if end in expected else nullcontext():
        await capture

    # THEN it was still there, to be reaped, and now it is not
    assert ended == [True]
    assert tracee.copies() == []
    assert (tmp_path / "it").exists() == (end == "well")
    tracee.check_runs_on()


async def test_large_ones_are_forked_and_small_ones_are_not(
    spawn: Callable[..., Tracee], sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    large = await sa.capture_to(spawn("big.py", 32 << 20, 1).pid, tmp_path / "large")
    small = await sa.capture_to(sleeper, tmp_path / "small")

    assert (large.strategy, small.strategy) == ("fork", "direct")
    assert "large" in large.reason
    assert "small" in small.reason


async def test_where_no_copy_can_be_made(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    sleeper.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{sleeper.pid}/stat")
    until(lambda: ") T " in stat.read_text(), "it to stop")

    report = await sa.capture_to(sleeper, tmp_path / "it", strategy="fork")

    assert report.strategy == "direct"
    assert "fork was to be read" in report.reason
    async with await sa.Checkpoint.load(tmp_path / "it") as checkpoint:
        assert checkpoint.process_state.memory_data


async def test_a_sandbox_forty_times(tmp_path: Path) -> None:
    # Each copy is counted by sandlock's supervisor, and no longer when it is reaped.
    sandlock = pytest.importorskip("sandlock")
    box = sandlock.Sandbox(fs_readable=READABLE, max_processes=8)
    try:
        box.spawn(["/bin/sh", "-c", "while true; do /bin/true; done"])
    except Exception as error:  # noqa: BLE001
        missing(f"a kernel with Landlock: {error}")
    try:
        forked = 0
        for _ in range(40):
            report = await sa.capture_to(
                box, tmp_path / "it", strategy="fork", replace=True, durable=False
            )
            forked += report.strategy == "fork"
            await asyncio.sleep(0)
        assert forked >= 30
        assert Path(f"/proc/{box.pid}/stat").exists()
    finally:
        box.kill()
        box.wait()
