"""Cancelled at any moment, more than once: nothing stays stopped, nothing is left."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

import sandlock_async as sa
from sandlock_async.budget import BUDGET
from tests.conftest import PROGRAMS, Tracee, until

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize(
    ("strategy", "memory_limit"),
    [("direct", 0), ("direct", 256 << 20), ("fork", 256 << 20)],
    ids=["spilling", "in-memory", "fork"],
)
async def test_two_hundred_cancelled_twice(
    strategy: str, memory_limit: int, spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("big.py", 32 << 20, 1)
    store = tmp_path / "store"
    store.mkdir()
    chance = random.Random(7)
    cancelled = 0
    began = time.monotonic()
    await sa.capture_to(
        tracee.pid, store / "it", memory_limit=memory_limit, strategy=strategy
    )
    usual = time.monotonic() - began

    for _ in range(100):
        task = asyncio.ensure_future(
            sa.capture_to(
                tracee.pid,
                store / "it",
                replace=True,
                durable=False,
                memory_limit=memory_limit,
                strategy=strategy,
            )
        )
        await asyncio.sleep(chance.random() * usual)
        task.cancel()
        await asyncio.sleep(chance.choice((0, 0.0005, 0.002)))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        cancelled += task.cancelled()

        assert tracee.tracers() == {"0"}
        assert tracee.copies() == []
        assert os.listdir(store) == ["it"]
    assert cancelled > 5
    tracee.check_runs_on()
    async with await sa.Checkpoint.load(store / "it") as checkpoint:
        assert checkpoint.process_state.pid == tracee.pid


async def test_in_memory_captures_cancelled(spawn: Callable[..., Tracee]) -> None:
    tracee = spawn("big.py", 4 << 20, 1)
    chance = random.Random(11)
    began = time.monotonic()
    async with await sa.capture(tracee.pid):
        usual = time.monotonic() - began

    for _ in range(100):
        task = asyncio.ensure_future(sa.capture(tracee.pid))
        await asyncio.sleep(chance.random() * 1.2 * usual)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).aclose()

    tracee.check_runs_on()


async def test_anyio_scopes_and_timeouts(
    spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("big.py", 32 << 20, 1)

    for delay in (0.001, 0.005, 0.02, 0.05):
        with anyio.move_on_after(delay):
            await sa.capture_to(tracee.pid, tmp_path / "a", replace=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                sa.capture_to(tracee.pid, tmp_path / "a", replace=True), delay
            )
        assert tracee.tracers() == {"0"}
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    tracee.check_runs_on()


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15])
async def test_ctrl_c_twice(
    delay: float, spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracee = spawn("big.py", 64 << 20, 1)
    store = tmp_path / "store"
    code = f"""
import asyncio, sys
import sandlock_async as sa
async def main():
    def told(event): print(type(event).__name__, flush=True)
    while True:
        await sa.capture_to({tracee.pid}, {str(store / "it")!r}, replace=True,
                            strategy="direct", memory_limit=0, on_event=told)
asyncio.run(main())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROGRAMS.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    deadline = time.monotonic() + delay
    until(lambda: time.monotonic() >= deadline, "a moment")

    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)

    assert process.returncode in (-signal.SIGINT, 1), errors.decode()
    assert b"KeyboardInterrupt" in errors
    tracee.check_runs_on()
    # The second may interrupt the very removal of the stage: the next one removes it.
    await sa.capture_to(tracee.pid, store / "it", replace=True)
    assert os.listdir(store) == ["it"]


async def test_twenty_at_once_share_one_budget(
    spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    tracees = [spawn("big.py", 8 << 20, 1) for _ in range(20)]
    limit = 40 << 20
    most = 0

    def watch(_: sa.Event) -> None:
        nonlocal most
        most = max(most, BUDGET.used_bytes)

    # GIVEN an application that has filled the loop's default executor
    loop = asyncio.get_running_loop()
    gate = threading.Event()
    jobs = [loop.run_in_executor(None, gate.wait) for _ in range(64)]
    try:
        reports = await asyncio.gather(
            *(
                sa.capture_to(
                    tracee.pid,
                    tmp_path / f"store/{tracee.pid}",
                    memory_limit=limit,
                    durable=False,
                    on_event=watch,
                )
                for tracee in tracees
            )
        )
    finally:
        gate.set()
        await asyncio.gather(*jobs)
        await loop.shutdown_default_executor()

    assert 0 < most <= limit
    assert BUDGET.used_bytes == 0
    assert [report.pid for report in reports] == [tracee.pid for tracee in tracees]
    for tracee in tracees:
        tracee.check_runs_on()
