"""Small targets: how little a capture of one takes, and how many can be taken."""

import asyncio
import subprocess
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import sandlock_async as sa
from benchmarks.captors import Captors
from benchmarks.results import Result, Row, ratios
from benchmarks.sandboxes import Sandboxes
from benchmarks.statistics_of import Spread
from benchmarks.takes import alternate, ours, take_turns, theirs


async def tiny(folder: Path, *, quick: bool) -> Result:
    """A tiny sandboxed process, captured by us and by sandlock, in turn."""
    rows: list[Row] = []
    for version in ("0.9.0", "0.8.2"):
        name = f"sandlock {version}"
        with Sandboxes(version, ["/bin/sleep", "600"]) as boxes:
            found = await take_turns(
                10 if quick else 200,
                {"ours": ours(boxes.pids[0], "direct"), name: theirs(boxes)},
                folder,
                durable=False,
            )
        freezes = {by: [it.freeze_ms for it in takes] for by, takes in found.items()}
        totals = {by: [it.total_ms for it in takes] for by, takes in found.items()}
        rows += [
            Row.of(f"freeze, ours (target in {version})", freezes["ours"]),
            Row.of(f"checkpoint() of {name}", freezes[name]),
            Row.of(f"capture_to, not durable (target in {version})", totals["ours"]),
            Row.of(f"checkpoint() + save() of {name}", totals[name]),
        ]
    return Result(rows)


async def busy(folder: Path, *, quick: bool) -> Result:
    """Freeze of a tiny process with an idle and a busy event loop, in turn, in ms."""
    process = subprocess.Popen(["sleep", "600"])
    over = asyncio.Event()

    async def spin() -> None:
        while not over.is_set():
            until = time.perf_counter() + 0.005
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)

    idle: list[float] = []
    loaded: list[float] = []
    try:
        for _ in range(10 if quick else 50):
            report = await sa.capture_to(
                process, folder / "it", replace=True, durable=False
            )
            idle.append(report.freeze_ms)
            over.clear()
            spinner = asyncio.ensure_future(spin())
            report = await sa.capture_to(
                process, folder / "it", replace=True, durable=False
            )
            loaded.append(report.freeze_ms)
            over.set()
            await spinner
    finally:
        process.kill()
        process.wait()
    return Result(
        [
            Row.of("freeze, event loop idle", idle),
            Row.of("freeze, event loop 100 % busy", loaded),
        ]
    )


async def many(folder: Path, *, quick: bool) -> Result:
    """Twenty small processes at once, in ms for all of them."""
    processes = [subprocess.Popen(["sleep", "600"]) for _ in range(20)]
    gate = threading.Event()
    rows: list[Row] = []
    try:
        for name, full in (("idle", False), ("full", True)):
            loop = asyncio.get_running_loop()
            jobs = [loop.run_in_executor(None, gate.wait) for _ in range(64 * full)]
            times: list[float] = []
            for _ in range(3 if quick else 10):
                began = time.perf_counter()
                await asyncio.gather(
                    *(
                        sa.capture_to(
                            process,
                            folder / str(process.pid),
                            replace=True,
                            durable=False,
                        )
                        for process in processes
                    )
                )
                times.append(1e3 * (time.perf_counter() - began))
            gate.set()
            await asyncio.gather(*jobs)
            gate.clear()
            rows.append(Row.of(f"20 at once, default executor {name}", times))
    finally:
        gate.set()
        for process in processes:
            process.kill()
            process.wait()
    return Result(rows)


async def sandboxes(folder: Path, *, quick: bool) -> Result:
    """A hundred small sandboxes of one process, all captured: so many a second."""
    count = 4 if quick else 100
    program = ["/bin/sleep", "600"]
    with (
        Sandboxes("0.9.0", program, count=count, beside_us=True) as boxes,
        Captors(1) as one,
        Captors(2) as two,
    ):

        async def rate(take: Callable[[Path], Awaitable[float]]) -> float:
            with tempfile.TemporaryDirectory(dir=folder) as store:
                return 1e3 * count / await take(Path(store))

        us = {
            "ours, in that process": boxes.capture_all,
            "ours, by pid": partial(one.capture_all, pids=boxes.pids),
            "ours, by pid, two processes": partial(two.capture_all, pids=boxes.pids),
        }
        them = {
            f"sandlock 0.9.0, {threads} threads": partial(
                boxes.checkpoint_all, threads=threads
            )
            for threads in (1, 2, 4, 8)
        }
        takes: dict[str, Callable[[Path], Awaitable[float]]] = {**us, **them}
        found = await alternate(
            1 if quick else 10, {name: partial(rate, takes[name]) for name in takes}
        )
    best = max(them, key=lambda name: Spread.of(found[name]).median)
    return Result(
        [
            *(Row.of(name, rates, "1/s") for name, rates in found.items()),
            *(ratios(f"{name}, by {best}", found[name], found[best]) for name in us),
        ]
    )
