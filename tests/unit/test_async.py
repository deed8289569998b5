"""Waiting to the end, sharing memory, leaving no thread."""

import asyncio
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

import sandlock_async as sa
from sandlock_async import courtesy
from sandlock_async.budget import BUDGET, Budget
from sandlock_async.completion import Overdue, completed
from sandlock_async.courtesy import courteous_loop
from sandlock_async.tracer import TracerThread
from sandlock_async.workers import Workers
from tests.conftest import until


async def test_cancelled_twice_it_waits_to_the_end() -> None:
    gate, told = threading.Event(), []
    async with Workers() as workers:
        future = workers.submit(gate.wait)
        task = asyncio.ensure_future(
            completed(future, on_cancel=lambda: told.append(future.done()))
        )
        await asyncio.sleep(0)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not task.done()
        gate.set()

        with pytest.raises(asyncio.CancelledError):
            await task

    assert future.done()
    assert told == [False]


async def test_a_scope_that_is_cancelled_waits_as_well() -> None:
    gate = threading.Event()
    loop = asyncio.get_running_loop()
    async with Workers() as workers:
        with anyio.CancelScope() as scope:
            future = workers.submit(gate.wait)
            loop.call_soon(scope.cancel)
            loop.call_later(0.02, gate.set)
            await completed(future)

        assert scope.cancelled_caught
        assert future.done()


async def test_patience_ends() -> None:
    gate = threading.Event()
    async with Workers() as workers:
        with pytest.raises(Overdue):
            await completed(workers.submit(gate.wait), patience=0.01)
        gate.set()


async def test_what_was_made_for_nobody_is_released() -> None:
    gate, released = threading.Event(), []

    def make() -> str:
        gate.wait()
        return "thing"

    async with Workers() as workers:
        task = asyncio.ensure_future(workers.acquire(released.append, make))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert released == ["thing"]


async def test_workers_leave_no_thread() -> None:
    before = threading.active_count()

    async with Workers() as workers:
        await asyncio.gather(*(workers.run(os.getpid) for _ in range(20)))

    assert threading.active_count() == before


async def test_workers_are_no_more_than_there_are_cpus() -> None:
    gate, before = threading.Event(), threading.active_count()

    async with Workers() as workers:
        for _ in range(20):
            workers.submit(gate.wait)
        started = threading.active_count() - before
        gate.set()

    assert 2 <= started <= max(2, len(os.sched_getaffinity(0)))


async def test_a_busy_loop_makes_way_for_threads() -> None:
    # GIVEN a loop that is never idle, and lets the GIL go before it is asked to
    turns = 0

    def work() -> None:
        nonlocal turns
        for _ in range(20):
            os.stat("/")
            turns += 1

    thread = threading.Thread(target=work)
    with courteous_loop():
        thread.start()
        deadline = time.monotonic() + 20
        while turns < 20:
            began = time.perf_counter()
            while time.perf_counter() - began < 0.004:
                pass
            assert time.monotonic() < deadline, f"starved after {turns} turns"
            await asyncio.sleep(0)

    thread.join()
    assert not courtesy._courtesies


def test_the_tracer_is_one_thread_and_ends() -> None:
    tracer = TracerThread(1)
    tids = {tracer.submit(threading.get_native_id).result() for _ in range(10)}
    with pytest.raises(ZeroDivisionError):
        tracer.submit(lambda: 1 // 0).result()

    tracer.shutdown()

    assert len(tids) == 1
    assert not os.path.exists(f"/proc/self/task/{tids.pop()}")
    with pytest.raises(RuntimeError):
        tracer.submit(os.getpid)


async def on_the_loop() -> None:
    """Be there already."""


async def test_the_budget_is_first_come_first_served() -> None:
    budget, order = Budget(), []
    gates = [asyncio.Event() for _ in range(3)]

    async def hold(number: int, wanted: int) -> None:
        async with budget.reserved(wanted, 100, on_the_loop):
            order.append(number)
            assert budget.used_bytes <= 100
            await gates[number].wait()

    tasks = [asyncio.ensure_future(hold(n, w)) for n, w in enumerate((60, 60, 30))]
    await asyncio.sleep(0.01)
    assert order == [0]  # the third would fit, but is not first
    gates[0].set()
    async with asyncio.timeout(5):
        while order != [0, 1, 2]:
            await asyncio.sleep(0)
    for gate in gates:
        gate.set()
    await asyncio.gather(*tasks)

    assert budget.used_bytes == 0


async def test_a_child_of_fork_begins_anew() -> None:
    async with BUDGET.reserved(1000, 1000, on_the_loop):
        pid = os.fork()
        if not pid:
            os._exit(BUDGET.used_bytes or len(courtesy._courtesies))
        _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"name": 5}, TypeError),
        ({"policy": "text"}, TypeError),
        ({"policy": 7}, TypeError),
        ({"app_state": [1]}, TypeError),
        ({"timeout": "1"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": -1.0}, ValueError),
        ({"timeout": math.nan}, ValueError),
    ],
)
async def test_wrong_arguments(
    option: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error, match=next(iter(option))):
        await sa.capture(1, **option)
    with pytest.raises(error, match=next(iter(option))):
        await sa.capture_to(1, tmp_path / "it", **option)


async def test_a_waiter_that_is_cancelled_gives_way() -> None:
    budget = Budget()

    async def hold() -> None:
        async with budget.reserved(100, 100, on_the_loop):
            await asyncio.Event().wait()

    async with budget.reserved(100, 100, on_the_loop):
        task = asyncio.ensure_future(hold())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    assert budget.used_bytes == 0
    until(lambda: not budget._waiting, "nobody waits")
    async with budget.reserved(500, 100, on_the_loop) as room:
        assert room == 100
