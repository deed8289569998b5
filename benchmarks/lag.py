"""How well the event loop runs meanwhile."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from benchmarks.results import Result, Row
from benchmarks.takes import Take, alternate, detours, ours, take_once
from benchmarks.target import MIB, STRATEGIES, Memory, unconfined


async def lag(folder: Path, *, quick: bool) -> Result:
    """How late a 1 ms timer of the event loop is while 800 MB are captured."""
    late: dict[str, list[float]] = {}
    memory = Memory.dense((40 if quick else 800) * MIB)
    with unconfined(memory, folder) as (process, status):
        await status.ready()

        async def once(name: str) -> Take | None:
            async with _ticking(late.setdefault(name, [])):
                if name in STRATEGIES:
                    contender = ours(process, name)
                    return await take_once(contender, folder, durable=False)
                await asyncio.sleep(0.5)
                return None

        names = ("idle", *STRATEGIES)
        found = await alternate(
            2 if quick else 10, {name: partial(once, name) for name in names}
        )
    taken = {name: [it for it in takes if it] for name, takes in found.items()}
    rows: list[Row] = []
    for name, times in late.items():
        p99 = sorted(times)[int(len(times) * 0.99)]
        rows += [
            Row.of(f"timer late, {name}", times),
            Row.of(f"timer late, {name}: p99", [p99]),
            Row.of(f"timer late, {name}: worst", [max(times)]),
        ]
        takes = taken[name]
        if takes:
            rows += [
                Row.of(f"freeze, {name}", [take.freeze_ms for take in takes]),
                Row.of(f"total, {name}", [take.total_ms for take in takes]),
            ]
    return Result([*rows, *detours(taken)])


@asynccontextmanager
async def _ticking(late: list[float]) -> AsyncGenerator[None]:
    over = asyncio.Event()

    async def tick() -> None:
        while not over.is_set():
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(1e3 * (time.perf_counter() - began) - 1)

    ticker = asyncio.ensure_future(tick())
    try:
        yield
    finally:
        over.set()
        await ticker
