"""Captured for a long time: it takes no more memory, descriptors or threads at the end.

``SANDLOCK_ASYNC_SOAK_S`` says how many seconds the long form takes; an hour is 3600.
"""

import asyncio
import ctypes
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

import sandlock_async as sa
from tests.conftest import Tracee, open_files
from tests.integration.test_moments import after
from tests.programs.status import ERRORS

pytestmark = pytest.mark.usefixtures("nothing_left")

LONG_S = float(os.environ.get("SANDLOCK_ASYNC_SOAK_S", "180"))

RSS_BYTES = 4 << 20
"""What may come and go."""

SAMPLED_EVERY = 7

LIBC = ctypes.CDLL(None)
M_ARENA_MAX = -8  # malloc.h

PROGRAMS: tuple[tuple[object, ...], ...] = (
    *[("ballast", mib) for mib in (1, 4, 12, 32)],
    *[("unnoticed",)] * 8,
    *[("forks.py",)] * 2,
    *[("states",)] * 2,
    *[("traffic.py",)] * 2,
    ("signals",),
    ("churn",),
)
"""Twenty: with little memory and much, forking, under signals, with many threads."""

assert len(PROGRAMS) == 20


@dataclass(frozen=True, slots=True)
class Sample:
    """What our process takes at a moment."""

    rss: int
    fds: int
    threads: int

    @classmethod
    def taken(cls) -> "Sample":
        LIBC.malloc_trim(0)  # what is free is not taken
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        return cls(
            rss=pages * os.sysconf("SC_PAGESIZE"),
            fds=open_files().total(),
            threads=len(os.listdir("/proc/self/task")),
        )


class Soak:
    """Targets that are captured in turn, each time in another way.

    :ivar ends: how often a way has ended how
    :ivar number: how many captures there have been
    """

    def __init__(self, spawn: Callable[..., Tracee], store: Path) -> None:
        self.ends: Counter[str] = Counter()
        self._spawn = spawn
        self._store = store
        self._tracees = [spawn(*program) for program in PROGRAMS]
        self._chance = random.Random(20)
        self.number = 0
        self._ways = (
            self._to_disk,
            self._told,
            self._to_memory,
            self._cancelled,
            self._dying,
            self._too_late,
            self._together,
            self._with_children,
            self._read,
        )

    async def step(self) -> None:
        """Capture the next one."""
        index = self.number % len(self._tracees)
        way = self._ways[self.number % len(self._ways)]
        tracee = self._tracees[index]
        self.number += 1
        end = "made"
        try:
            await way(tracee)
        except sa.CaptureError as error:
            end = type(error).__name__
        except asyncio.CancelledError:
            end = "cancelled"
        self.ends[f"{way.__name__} {end}"] += 1
        if way == self._dying:
            tracee.end()
            self._tracees[index] = self._spawn(*PROGRAMS[index])
            return
        assert tracee.tracers() <= {"0"}
        assert tracee.process.poll() is None
        assert tracee.status[ERRORS] == 0

    async def _to_disk(self, tracee: Tracee) -> None:
        await sa.capture_to(tracee.pid, self._path(tracee), replace=True)

    async def _told(self, tracee: Tracee) -> None:
        events: list[sa.Event] = []
        await sa.capture_to(
            tracee.pid,
            self._path(tracee),
            strategy=self._chance.choice(("direct", "fork")),
            memory_limit=64 << 10,
            format="v3",
            replace=True,
            durable=False,
            on_event=events.append,
        )
        assert events

    async def _to_memory(self, tracee: Tracee) -> None:
        async with await sa.capture(tracee.pid) as checkpoint:
            assert checkpoint.process_state.memory_data

    async def _cancelled(self, tracee: Tracee) -> None:
        task = asyncio.ensure_future(self._to_disk(tracee))
        loop = asyncio.get_running_loop()
        with after(
            self._chance.random() * 0.03, lambda: loop.call_soon_threadsafe(task.cancel)
        ):
            await task

    async def _dying(self, tracee: Tracee) -> None:
        with after(
            self._chance.random() * 0.03, lambda: os.kill(tracee.pid, signal.SIGKILL)
        ):
            await self._told(tracee)

    async def _too_late(self, tracee: Tracee) -> None:
        await sa.capture_to(
            tracee.pid,
            self._path(tracee),
            timeout=1e-5 + self._chance.random() * 0.003,
            replace=True,
            durable=False,
        )

    async def _together(self, tracee: Tracee) -> None:
        several = {*self._chance.sample(self._tracees, 3), tracee}
        outcomes = await sa.capture_many(
            [(this.pid, self._path(this)) for this in several],
            consistent=self._chance.random() < 0.5,
            replace=True,
            durable=False,
        )
        assert all(isinstance(it, sa.CaptureReport) for it in outcomes), outcomes

    async def _with_children(self, tracee: Tracee) -> None:
        await sa.capture_to(
            tracee.pid, self._path(tracee), tree=True, replace=True, durable=False
        )

    async def _read(self, tracee: Tracee) -> None:
        path = self._path(tracee)
        await sa.capture_to(tracee.pid, path, replace=True, durable=False)
        found = await sa.verify(path)
        assert found.ok, found.findings
        async with await sa.Checkpoint.load(path) as checkpoint:
            await checkpoint.save(
                self._store / "saved", format="v3", replace=True, durable=False
            )
        await sa.convert(path, self._store / "other", format="v2", replace=True)

    def _path(self, tracee: Tracee) -> Path:
        return self._store / str(self._tracees.index(tracee))


def check_flat(samples: Sequence[Sample]) -> None:
    """Assert that the last quarter of them takes no more than the first."""
    quarter = len(samples) // 4
    first, last = samples[:quarter], samples[-quarter:]
    for what, allowed in (("rss", RSS_BYTES), ("fds", 0), ("threads", 0)):
        before, now = (
            median(getattr(sample, what) for sample in some) for some in (first, last)
        )
        print(what, before, now)
        assert now - before <= allowed, f"{what}: {before} at first, {now} at last"


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(8, id="short"),
        pytest.param(LONG_S, id="long", marks=pytest.mark.soak),
    ],
)
@pytest.mark.timeout(LONG_S + 120)
async def test_nothing_grows(
    seconds: float, spawn: Callable[..., Tracee], tmp_path: Path
) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("needs x86-64 (a program that is a target has ymm registers)")
    # Else the allocator has an arena for each of many threads, up to eight for a CPU,
    # and what is free in them fills up for hours.
    LIBC.mallopt(M_ARENA_MAX, 1)
    soak = Soak(spawn, tmp_path / "store")
    for _ in PROGRAMS:
        await soak.step()  # what is made once has been made
    samples: list[Sample] = []
    ends_at = time.monotonic() + seconds

    while time.monotonic() < ends_at or len(samples) < 8:
        await soak.step()
        if soak.number % SAMPLED_EVERY == 0:  # they take memory, too
            samples.append(Sample.taken())

    print(soak.ends)
    check_flat(samples)
