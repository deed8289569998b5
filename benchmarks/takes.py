"""One picture of a process, taken by whoever can, in turn with the others."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import sandlock_async as sa
from benchmarks.results import Row
from benchmarks.sandboxes import Sandboxes

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """How long it took.

    :ivar freeze_ms: how long the target stood still, as far as who took it can tell
    :ivar disk_bytes: blocks of the files, sparse ones without their holes
    :ivar detour: whether the memory was read in another way than was asked for
    """

    freeze_ms: float
    total_ms: float
    disk_bytes: int = 0
    detour: bool = False


Contender = Callable[[Path, bool], Awaitable[Take]]
"""Takes a picture to a folder, durably or not."""


def ours(target: object, strategy: str) -> Contender:
    """Return our capture with a strategy."""

    async def take(path: Path, durable: bool) -> Take:  # noqa: FBT001
        began = time.perf_counter()
        report = await sa.capture_to(
            target, path / "it", strategy=strategy, durable=durable, timeout=120
        )
        total = 1e3 * (time.perf_counter() - began)
        detour = report.strategy != strategy
        if detour:
            print(f"not {strategy}: {report.reason}", file=sys.stderr)
        return Take(freeze_ms=report.freeze_ms, total_ms=total, detour=detour)

    return take


def theirs(boxes: Sandboxes) -> Contender:
    """Return sandlock's checkpoint(), all of which counts as freeze, and save()."""

    async def take(path: Path, durable: bool) -> Take:  # noqa: FBT001
        freeze, total = await boxes.checkpoint(path, durable=durable)
        return Take(freeze_ms=freeze, total_ms=total)

    return take


def command(*line: str) -> Contender:
    """Return a program that takes a picture to ``{}``; all of its run is freeze."""

    async def take(path: Path, durable: bool) -> Take:  # noqa: FBT001
        words = [word.replace("{}", str(path)) for word in line]
        began = time.perf_counter()
        done = await asyncio.to_thread(
            subprocess.run, words, capture_output=True, text=True
        )
        frozen = 1e3 * (time.perf_counter() - began)
        if done.returncode:
            raise RuntimeError(f"{line[0]}: {done.stderr[-2000:]}")
        if durable:
            await asyncio.to_thread(_sync, path)
        total = 1e3 * (time.perf_counter() - began)
        return Take(freeze_ms=frozen, total_ms=total)

    return take


def others(pid: int) -> dict[str, Contender]:
    """Return what else on this machine takes pictures of processes."""
    found: dict[str, Contender] = {}
    if shutil.which("gcore"):
        found["gcore"] = command("gcore", "-o", "{}/core", str(pid))
    if shutil.which("criu"):
        found["criu"] = command(
            *("criu", "dump", "-t", str(pid), "-D", "{}", "--leave-running"),
            *("--shell-job", "--ext-unix-sk", "--file-locks"),
        )
    return found


async def alternate(
    rounds: int, contenders: Mapping[str, Callable[[], Awaitable[T]]]
) -> dict[str, list[T]]:
    """Let each take its turn in every round, another one first each time."""
    found: dict[str, list[T]] = defaultdict(list)
    names = list(contenders)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(await contenders[name]())
    return {name: found[name] for name in names}


async def take_turns(
    rounds: int, contenders: Mapping[str, Contender], folder: Path, *, durable: bool
) -> dict[str, list[Take]]:
    """Have every contender take pictures to *folder*, each of which is removed."""
    return await alternate(
        rounds,
        {
            name: partial(take_once, contender, folder, durable=durable)
            for name, contender in contenders.items()
        },
    )


async def take_once(contender: Contender, folder: Path, *, durable: bool) -> Take:
    """Have one picture taken, measure and remove it."""
    path = Path(tempfile.mkdtemp(dir=folder))
    try:
        take = await contender(path, durable)
        blocks = sum(
            file.lstat().st_blocks for file in path.rglob("*") if file.is_file()
        )
    finally:
        # Elsewhere: to free so much memory would hold up the event loop.
        await asyncio.to_thread(shutil.rmtree, path)
    return replace(take, disk_bytes=512 * blocks)


def detours(found: Mapping[str, Sequence[Take]]) -> list[Row]:
    """Return how often each had to go another way, if any had."""
    counts = {name: [take.detour for take in takes] for name, takes in found.items()}
    return [
        Row.of(f"rounds in which it copied after all, {name}", [sum(them)], "times")
        for name, them in counts.items()
        if any(them)
    ]


def _sync(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
