"""Who waits for the target in this very process must not take its stop for an exit."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

import sandlock_async as sa
from sandlock_async.kernel.signals import child_stops_silenced
from tests.conftest import until


async def check_alive_and_well(process: asyncio.subprocess.Process) -> None:
    assert process.returncode is None
    process.kill()
    assert await process.wait() == -signal.SIGKILL


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the watcher of Python 3.11")
async def test_the_default_watcher_of_3_11() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")

    for _ in range(10):
        with pytest.raises(sa.WaitConflictError, match="waits for it") as caught:
            await sa.capture(process)

    assert "PidfdChildWatcher" in caught.value.help
    await check_alive_and_well(process)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 or newer")
async def test_the_watcher_of_3_12() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")

    for _ in range(20):
        async with await sa.capture(process) as checkpoint:
            assert checkpoint.process_state.pid == process.pid

    await check_alive_and_well(process)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a watcher of Python 3.11")
async def test_the_pidfd_watcher_of_3_11() -> None:
    watcher = asyncio.PidfdChildWatcher()
    watcher.attach_loop(asyncio.get_running_loop())
    policy = asyncio.get_event_loop_policy()
    before = policy.get_child_watcher()
    policy.set_child_watcher(watcher)
    try:
        process = await asyncio.create_subprocess_exec("sleep", "60")
        for _ in range(20):
            async with await sa.capture(process) as checkpoint:
                assert checkpoint.process_state.pid == process.pid
        await check_alive_and_well(process)
    finally:
        policy.set_child_watcher(before)


def test_uvloop() -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "60")
        with pytest.raises(sa.WaitConflictError, match="uvloop"):
            await sa.capture(process)
        await check_alive_and_well(process)

        # One that is not its child is no trouble at all.
        shell = await asyncio.create_subprocess_exec(
            "sh", "-c", "sleep 60 & echo $!; wait", stdout=asyncio.subprocess.PIPE
        )
        assert shell.stdout is not None
        pid = int(await shell.stdout.readline())
        try:
            for _ in range(20):
                async with await sa.capture(pid) as checkpoint:
                    assert checkpoint.process_state.pid == pid
            assert shell.returncode is None
        finally:
            os.kill(pid, signal.SIGKILL)
        await shell.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_popen_wait_in_a_thread(sleeper: "subprocess.Popen[bytes]") -> None:
    thread = threading.Thread(target=sleeper.wait, name="waits")
    thread.start()
    path = Path(f"/proc/self/task/{thread.native_id}/syscall")
    until(lambda: path.read_text().startswith(("61 ", "260 ")), "the thread to wait")
    try:
        with pytest.raises(sa.WaitConflictError, match="'waits'"):
            await sa.capture(sleeper)
        assert thread.is_alive()
        assert sleeper.returncode is None
    finally:
        os.kill(sleeper.pid, signal.SIGKILL)
        thread.join()
    assert sleeper.returncode == -signal.SIGKILL


async def test_popen_poll_in_a_thread(sleeper: "subprocess.Popen[bytes]") -> None:
    over = threading.Event()

    def poll() -> None:
        while not over.is_set():
            sleeper.poll()

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        for _ in range(20):
            async with await sa.capture(sleeper) as checkpoint:
                assert checkpoint.process_state.pid == sleeper.pid
    finally:
        over.set()
        thread.join()
    assert sleeper.returncode is None


async def test_a_child_of_multiprocessing() -> None:
    process = multiprocessing.get_context("spawn").Process(target=signal.pause)
    process.start()
    try:
        with pytest.raises(sa.WaitConflictError, match="multiprocessing"):
            await sa.capture(process)
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
        process.close()


@pytest.fixture
def greedy_handler() -> Iterator[list[tuple[int, int]]]:
    """As a pre-forking server has it: waitpid(-1) at every SIGCHLD."""
    reaped: list[tuple[int, int]] = []

    def reap(*_: object) -> None:
        try:
            while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                reaped.append(found)
        except ChildProcessError:
            pass

    before = signal.signal(signal.SIGCHLD, reap)
    yield reaped
    signal.signal(signal.SIGCHLD, before)


async def test_a_handler_that_waits_for_all(
    sleeper: "subprocess.Popen[bytes]", greedy_handler: list[tuple[int, int]]
) -> None:
    with pytest.raises(sa.WaitConflictError, match="SIGCHLD handler"):
        await sa.capture(sleeper)

    assert greedy_handler == []
    assert sleeper.poll() is None


async def test_sigchld_is_as_it_was(sleeper: "subprocess.Popen[bytes]") -> None:
    before = child_stops_silenced()

    async with await sa.capture(sleeper):
        pass

    assert child_stops_silenced() == before
