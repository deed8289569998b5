"""Something happens at a random moment of a capture, and nothing is left of that one.

The moments are drawn from a seed, over the time that such a capture takes; how far it
has come by then nobody knows.
"""

import asyncio
import gc
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

import sandlock_async as sa
from sandlock_async.budget import BUDGET
from sandlock_async.threads import OUR_THREADS
from tests.conftest import Tracee, open_files, until

pytestmark = pytest.mark.usefixtures("nothing_left")

Spawn = Callable[..., Tracee]

SMALL = 0
"""MiB of a program that is captured in one hop to a thread, without on_event."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to capture; each goes through other code."""

    mib: int
    strategy: str
    memory_limit: int
    is_told: bool

    async def capture(
        self, tracee: Tracee, store: Path, timeout: float = 10.0
    ) -> sa.CaptureReport:
        return await sa.capture_to(
            tracee.pid,
            store / "it",
            strategy=self.strategy,
            memory_limit=self.memory_limit,
            timeout=timeout,
            replace=True,
            durable=False,
            on_event=(lambda _: None) if self.is_told else None,
        )


def started(spawn: Spawn, mib: int) -> Tracee:
    # Given up in the midst of a clone's life, a sleep may end early.
    return spawn("unnoticed", "early") if mib == SMALL else spawn("ballast", mib)


def ways(*sizes: int) -> list[Way]:
    strategies = ("direct", "fork") if os.uname().machine == "x86_64" else ("direct",)
    limits, told = (64 << 10, 256 << 20), (False, True)
    return [Way(*this) for this in product((SMALL, *sizes), strategies, limits, told)]


@dataclass(frozen=True, slots=True)
class Usual:
    """How long a capture takes undisturbed."""

    total_s: float
    frozen_s: float


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


async def timed(way: Way, tracee: Tracee, store: Path) -> Usual:
    began = time.monotonic()
    report = await way.capture(tracee, store)
    phases = report.phases_ms
    return Usual(
        total_s=time.monotonic() - began,
        frozen_s=(phases["attach"] + phases["freeze"]) / 1e3,
    )


@contextmanager
def after(delay: float, act: Callable[[], object]) -> Iterator[None]:
    """Do something on a thread after *delay*, unless it is over by then."""
    timer = threading.Timer(delay, act)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def check_nothing_left(store: Path, fds: int) -> None:
    assert set(os.listdir(store)) <= {"it"}
    assert not [it for it in threading.enumerate() if it.name.startswith(OUR_THREADS)]
    assert BUDGET.used_bytes == 0
    # More may be in the cycles of tracebacks, for a while.
    assert open_files().total() <= fds or _collected() <= fds


def _collected() -> int:
    gc.collect()
    return open_files().total()


def check_unharmed(tracee: Tracee) -> None:
    assert tracee.tracers() == {"0"}
    assert tracee.copies() == []
    tracee.check_runs_on()


SHORT = pytest.param(32, (16,), id="short")


@pytest.mark.parametrize(
    ("rounds", "sizes"),
    [SHORT, pytest.param(1000, (16, 64), id="long", marks=pytest.mark.soak)],
)
@pytest.mark.timeout(1800)
async def test_cancelled(
    rounds: int, sizes: tuple[int, ...], spawn: Spawn, store: Path
) -> None:
    chance = random.Random(rounds)
    loop = asyncio.get_running_loop()
    tracees = {mib: started(spawn, mib) for mib in (SMALL, *sizes)}
    usual = {way: await timed(way, tracees[way.mib], store) for way in ways(*sizes)}
    fds = _collected()
    ends: Counter[str] = Counter()

    for number in range(rounds):
        way = list(usual)[number % len(usual)]
        task = asyncio.ensure_future(way.capture(tracees[way.mib], store))

        def cancel(task: "asyncio.Future[object]" = task) -> None:
            loop.call_soon_threadsafe(task.cancel)

        first = chance.random() * 1.2 * usual[way].total_s
        second = first + chance.random() * 0.002
        with after(first, cancel), after(second, cancel):
            await asyncio.wait([task])

        if not task.cancelled():
            task.result()
        ends["cancelled" if task.cancelled() else "made"] += 1
        check_nothing_left(store, fds)
        check_unharmed(tracees[way.mib])
    print(ends)
    assert min(ends["cancelled"], ends["made"]) > rounds / 20, ends


@pytest.mark.parametrize(
    ("rounds", "sizes"),
    [SHORT, pytest.param(1000, (16, 64), id="long", marks=pytest.mark.soak)],
)
@pytest.mark.timeout(1800)
async def test_the_target_is_killed(
    rounds: int, sizes: tuple[int, ...], spawn: Spawn, store: Path
) -> None:
    chance = random.Random(rounds)
    tracees = {mib: started(spawn, mib) for mib in (SMALL, *sizes)}
    usual = {way: await timed(way, tracees[way.mib], store) for way in ways(*sizes)}
    fds = _collected()
    ends: Counter[str] = Counter()

    for number in range(rounds):
        way = list(usual)[number % len(usual)]
        tracee = started(spawn, way.mib)
        moment = chance.random() * 1.2 * usual[way].total_s

        def kill(pid: int = tracee.pid) -> None:
            os.kill(pid, signal.SIGKILL)

        with after(moment, kill):
            try:
                await way.capture(tracee, store)
                ends["made"] += 1
            except sa.ProcessGoneError as error:
                ends[error.phase] += 1
        kill()
        tracee.process.wait()

        check_nothing_left(store, fds)
        until(lambda tracee=tracee: not processes_of(tracee), "no process left")
    print(ends)
    assert min(ends["made"], ends.total() - ends["made"]) > rounds / 20, ends


def processes_of(tracee: Tracee) -> list[int]:
    """Return the process and its copies, as far as they are there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if tracee.name in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("rounds", "sizes"),
    [SHORT, pytest.param(500, (16, 64), id="long", marks=pytest.mark.soak)],
)
@pytest.mark.timeout(1800)
async def test_timed_out(
    rounds: int, sizes: tuple[int, ...], spawn: Spawn, store: Path
) -> None:
    chance = random.Random(rounds)
    tracees = {mib: started(spawn, mib) for mib in (SMALL, *sizes)}
    usual = {way: await timed(way, tracees[way.mib], store) for way in ways(*sizes)}
    fds = _collected()
    ends: Counter[str] = Counter()

    for number in range(rounds):
        way = list(usual)[number % len(usual)]
        tracee = tracees[way.mib]
        timeout = 1e-6 + chance.random() * 1.2 * usual[way].frozen_s
        try:
            await way.capture(tracee, store, timeout)
            ends["made"] += 1
        except sa.FreezeTimeoutError as error:
            ends[error.phase] += 1

        check_nothing_left(store, fds)
        check_unharmed(tracee)
    print(ends)
    assert min(ends["made"], ends.total() - ends["made"]) > rounds / 20, ends
