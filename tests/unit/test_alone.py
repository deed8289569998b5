"""Stories on a thread: where they run, how they come to the loop, how they end."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable

import pytest

from sandlock_async import turns
from sandlock_async.completion import Overdue
from sandlock_async.turns import AT_ONCE, turn
from sandlock_async.workers import Workers
from tests.conftest import until


async def test_all_calls_are_made_on_one_thread() -> None:
    async def story() -> list[str]:
        return [
            threading.current_thread().name,
            await workers.run(lambda: threading.current_thread().name),
            await workers.acquire(print, lambda: threading.current_thread().name),
        ]

    async with Workers() as workers:
        names = await workers.alone(story())

    assert len(set(names)) == 1
    assert names[0] != threading.current_thread().name


async def test_it_goes_on_on_the_loop() -> None:
    async def story() -> tuple[int, int, int]:
        before = threading.get_ident()
        await workers.to_loop()
        await workers.to_loop()
        await asyncio.sleep(0)
        return before, threading.get_ident(), await workers.run(threading.get_ident)

    async with Workers() as workers:
        before, after, call = await workers.alone(story())

    assert after == threading.get_ident()
    assert after not in (before, call)


async def test_what_it_raises_is_raised() -> None:
    async def story() -> None:
        await workers.run(lambda: 1 // 0)

    async with Workers() as workers:
        with pytest.raises(ZeroDivisionError):
            await workers.alone(story())
        assert await workers.run(threading.get_ident) != threading.get_ident()


@pytest.mark.parametrize("step", ["call", "loop", "wait", "last call"])
async def test_a_cancellation_is_told_once_after_the_call(step: str) -> None:
    inside, gate = threading.Event(), threading.Event()
    seen: list[str] = []

    def call() -> None:
        inside.set()
        gate.wait()

    async def story() -> None:
        try:
            await workers.run(call)
            if step == "call":
                await workers.run(seen.append, "never called")
            elif step == "loop":
                await workers.to_loop()
                seen.append("never on the loop")
            elif step == "wait":
                future: concurrent.futures.Future[None] = concurrent.futures.Future()
                await workers.completed(
                    future, on_cancel=lambda: future.set_exception(OSError("hurried"))
                )
        except asyncio.CancelledError as error:
            seen.append(f"cancelled {error.__cause__ or ''}".strip())
            await workers.run(seen.append, "tidied up")
            raise

    async with Workers() as workers:
        task = asyncio.ensure_future(workers.alone(story()))
        while not inside.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    told = "cancelled hurried" if step == "wait" else "cancelled"
    assert seen == ([] if step == "last call" else [told, "tidied up"])


async def test_a_wait_is_hurried_and_has_patience() -> None:
    hurried = threading.Event()

    async def story(work: Callable[[], object], patience: float | None) -> object:
        return await workers.completed(
            other.submit(work), on_cancel=hurried.set, patience=patience
        )

    with concurrent.futures.ThreadPoolExecutor() as other:
        async with Workers() as workers:
            assert await workers.alone(story(lambda: 7, None)) == 7
            with pytest.raises(Overdue):
                await workers.alone(story(hurried.wait, 0.01))
            task = asyncio.ensure_future(workers.alone(story(hurried.wait, None)))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    assert hurried.is_set()


async def test_cancelled_before_its_turn_it_never_begins() -> None:
    begun: list[int] = []

    async def story() -> None:
        begun.append(1)

    async with Workers() as workers:
        task = asyncio.ensure_future(workers.alone(story()))
        asyncio.get_running_loop().call_soon(task.cancel)
        async with turn(), turn():
            with pytest.raises(asyncio.CancelledError):
                await task

    assert not begun
    assert not turns._turns


async def test_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_LONG_S", 60.0)
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        async with turn():
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(0)
            finally:
                running -= 1

    tasks = [asyncio.ensure_future(work()) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks[1::3]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert most == AT_ONCE
    assert not turns._turns


async def test_long_turns_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_LONG_S", 0.001)
    stuck, had = asyncio.Event(), []

    async def hang() -> None:
        async with turn():
            await stuck.wait()

    async def work(number: int) -> None:
        async with turn():
            had.append(number)

    hanging = [asyncio.ensure_future(hang()) for _ in range(AT_ONCE + 2)]
    await asyncio.wait_for(asyncio.gather(*map(work, range(5))), 30)
    stuck.set()
    await asyncio.gather(*hanging)

    assert had == list(range(5))
    assert not turns._turns


def test_abandoned_by_its_loop_it_tidies_up() -> None:
    gate, seen = threading.Event(), []
    workers = Workers()

    async def story() -> None:
        try:
            await workers.run(gate.wait)
            await workers.run(seen.append, "never called")
        finally:
            await workers.run(seen.append, "tidied up")

    loop = asyncio.new_event_loop()
    begun = workers.alone(story())
    loop.create_task(begun)  # noqa: RUF006 - abandoned on purpose
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    begun.close()
    loop.close()

    gate.set()
    until(lambda: seen == ["tidied up"], "the story to end")
    workers._pool.shutdown()
