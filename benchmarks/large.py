"""Targets with much memory: how long they stand still, and what an image costs."""

import asyncio
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.results import Result, Row, ratios
from benchmarks.statistics_of import Spread
from benchmarks.takes import (
    Contender,
    Take,
    alternate,
    detours,
    others,
    ours,
    take_once,
    take_turns,
    theirs,
)
from benchmarks.target import DISK, MIB, STRATEGIES, Memory, sandboxed

NEW, OLD = "sandlock 0.9.0", "sandlock 0.8.2"


async def dense(folder: Path, *, quick: bool) -> Result:
    """A picture of 800 MB of dense private memory."""
    memory = Memory.dense((40 if quick else 800) * MIB)
    with (
        sandboxed("0.9.0", memory, folder) as (new, ready),
        sandboxed("0.8.2", memory, folder) as (old, ready_too),
    ):
        await ready.ready()
        await ready_too.ready()
        pid = new.pids[0]
        contenders = {
            **{name: ours(pid, name) for name in STRATEGIES},
            NEW: theirs(new),
            OLD: theirs(old),
            **others(pid),
        }
        rows = await _compare(contenders, folder, 1 if quick else 7)
        peaks = await _peaks(pid, folder, 1 if quick else 3)
    return Result([*rows, *peaks])


async def sparse(folder: Path, *, quick: bool) -> Result:
    """A picture of 4 GB mapped, of which one page in a hundred has content."""
    memory = Memory.sparse(1 if quick else 20)
    # Reading a hole makes the kernel map its zero page there: each has its own target.
    with (
        sandboxed("0.9.0", memory, folder) as (ours_of_it, ready),
        sandboxed("0.9.0", memory, folder) as (new, ready_too),
    ):
        await ready.ready()
        await ready_too.ready()
        pid = ours_of_it.pids[0]
        contenders = {
            **{name: ours(pid, name) for name in STRATEGIES},
            NEW: theirs(new),
        }
        return Result(await _compare(contenders, folder, 1 if quick else 5))


async def probe(folder: Path, *, quick: bool) -> Result:
    """How long a program with 800 MB that watches the clock does not run."""
    memory = Memory.dense((40 if quick else 800) * MIB)
    with sandboxed("0.9.0", memory, folder, spin=True) as (boxes, status):
        await status.ready()
        pid = boxes.pids[0]

        async def idle(_: Path, __: bool) -> Take:  # noqa: FBT001
            await asyncio.sleep(1)
            return Take(freeze_ms=0, total_ms=1000)

        contenders: dict[str, Contender] = {
            "nobody": idle,
            **{name: ours(pid, name) for name in STRATEGIES},
            NEW: theirs(boxes),
        }
        gaps: dict[str, list[float]] = defaultdict(list)

        async def watch(name: str) -> Take:
            status.forget_gap()
            take = await take_once(contenders[name], folder, durable=False)
            gaps[name].append(status.gap_ms)
            return take

        found = await alternate(
            2 if quick else 10, {name: partial(watch, name) for name in contenders}
        )
    rows = [Row.of(f"longest gap, {name}", gaps[name]) for name in contenders]
    rows += [
        Row.of(f"freeze as told, {name}", [take.freeze_ms for take in takes])
        for name, takes in found.items()
        if name != "nobody"
    ]
    return Result([*rows, *detours(found)])


async def growth(folder: Path, *, quick: bool) -> Result:
    """Freeze and time to an image on a tmpfs, from 10 MB to 8 GB if there is room."""
    rows: list[Row] = []
    curves: dict[str, dict[float, Spread]] = {}
    for size in (10, 40) if quick else (10, 100, 400, 800, 1600, 3200, 8000):
        memory = Memory.dense(size * MIB)
        if not memory.fits(2):  # itself, and an image
            print(f"growth: no room for {size} MB", file=sys.stderr)
            break
        has_room = memory.fits(3)  # and a copy, as sandlock makes one
        with sandboxed("0.9.0", memory, folder) as (boxes, ready):
            await ready.ready()
            found = await take_turns(
                1 if quick else 5,
                {
                    **{name: ours(boxes.pids[0], name) for name in STRATEGIES},
                    **({NEW: theirs(boxes)} if has_room else {}),
                },
                folder,
                durable=False,
            )
        for name, takes in found.items():
            freezes = Spread.of([take.freeze_ms for take in takes])
            totals = Spread.of([take.total_ms for take in takes])
            for what, spread in (
                (f"freeze, {name}", freezes),
                (f"total, {name}", totals),
            ):
                curves.setdefault(what, {})[size] = spread
                rows.append(Row(f"{size} MB: {what}", spread))
        rows += [replace(row, what=f"{size} MB: {row.what}") for row in detours(found)]
    return Result(rows, curves, "MB")


async def _compare(
    contenders: Mapping[str, Contender], folder: Path, rounds: int
) -> list[Row]:
    """Have pictures taken, on the tmpfs and on the disk."""
    rows: list[Row] = []
    fast = await take_turns(rounds, contenders, folder, durable=False)
    with tempfile.TemporaryDirectory(prefix="sandlock-bench-", dir=DISK) as disk:
        slow = await take_turns(-(-rounds // 2), contenders, Path(disk), durable=True)
    for what, takes in (("tmpfs", fast), ("disk, fsync", slow)):
        rows += [*_rows(what, takes), *detours(takes)]
    for name in STRATEGIES:
        for what, both in (
            ("freeze", [[take.freeze_ms for take in fast[it]] for it in (name, NEW)]),
            ("total", [[take.total_ms for take in fast[it]] for it in (name, NEW)]),
        ):
            rows.append(ratios(f"{what}, {name} by {NEW} (tmpfs)", *both))
    return rows


def _rows(where: str, found: Mapping[str, list[Take]]) -> list[Row]:
    rows: list[Row] = []
    for name, takes in found.items():
        rows += [
            Row.of(f"freeze, {name} ({where})", [take.freeze_ms for take in takes]),
            Row.of(f"total, {name} ({where})", [take.total_ms for take in takes]),
        ]
    rows += [
        Row.of(
            f"image, {name} ({where})", [take.disk_bytes / MIB for take in takes], "MiB"
        )
        for name, takes in found.items()
    ]
    return rows


async def _peaks(pid: int, folder: Path, rounds: int) -> list[Row]:
    """Return how much memory our captures take, each in a process of its own."""

    async def peak(strategy: str) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as path:
            line = [sys.executable, "-m", "benchmarks.peak", str(pid), f"{path}/it"]
            process = await asyncio.create_subprocess_exec(
                *line,
                strategy,
                stdout=subprocess.PIPE,
                cwd=Path(__file__).parent.parent,
            )
            told, _ = await process.communicate()
            return int(told) / MIB

    found = await alternate(
        rounds,
        {strategy: partial(peak, strategy) for strategy in STRATEGIES},
    )
    return [
        Row.of(f"memory of ours, {strategy}", values, "MiB")
        for strategy, values in found.items()
    ]
