"""What must be as before after a capture, however it ended."""

import asyncio
import gc
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import sandlock_async as sa
from sandlock_async.budget import BUDGET
from sandlock_async.kernel import signals
from sandlock_async.store.removal import STAGE_PREFIX
from tests.conftest import Tracee, open_files, until
from tests.programs.status import ERRORS, FIRST, PROGRESS

_HUNG_S = 60.0
"""On a machine that is busy with forty other things a capture may take seconds."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to capture.

    :ivar old: whether there is a checkpoint already, which is to be replaced
    :ivar in_memory: whether it is captured to memory, and saved
    :ivar many: whether it is one of several, as far as the code goes
    """

    name: str
    old: bool = True
    in_memory: bool = False
    many: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    async def capture(self, pid: int, destination: Path) -> None:
        if self.in_memory:
            async with await sa.capture(pid) as checkpoint:
                await checkpoint.save(destination, replace=self.old)
            return
        options = {"replace": self.old, "durable": False} | self.options
        if self.many:
            (outcome,) = await sa.capture_many([(pid, destination)], **options)
            if isinstance(outcome, BaseException):
                raise outcome
            return
        await sa.capture_to(pid, destination, **options)


class Aftermath:
    """Captures one target again and again, and takes note of what is wrong then.

    :ivar outcomes: how the captures ended, counted
    :ivar problems: what was wrong, in words
    """

    def __init__(self, way: Way, tracee: Tracee, store: Path) -> None:
        self.outcomes: Counter[str] = Counter()
        self.problems: list[str] = []
        self._way = way
        self._tracee = tracee
        self._store = store
        # Parents are made, and removed if nothing comes of it.
        self.place = store / ("it" if way.old else "made/it")
        self._complaints: list[str] = []

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Begin with what there is before; hear what else is complained about."""
        self._store.mkdir(exist_ok=True)
        await self.tidy_up()
        loop = asyncio.get_running_loop()
        hook = threading.excepthook
        loop.set_exception_handler(
            lambda _, context: self._complaints.append(f"the loop says {context}")
        )
        threading.excepthook = lambda this: self._complaints.append(
            f"a thread ended with {this.exc_value!r}"
        )
        try:
            yield
        finally:
            threading.excepthook = hook
            loop.set_exception_handler(None)

    async def attempt(
        self, what: object, trouble: AbstractContextManager[object]
    ) -> BaseException | None:
        """Capture in the midst of *trouble*; return the exception, if it failed."""
        fds, threads = open_files(), threading.active_count()
        began = time.monotonic()
        with trouble:
            task = asyncio.ensure_future(
                self._way.capture(self._tracee.pid, self.place)
            )
            done, _ = await asyncio.wait([task], timeout=_HUNG_S)
        assert done, f"{what}: it hangs"
        took = time.monotonic() - began
        error = task.exception()
        self.outcomes[type(error).__name__ if error else "captured"] += 1

        problems = [*self._left(fds, threads), *self._target(), *self._complaints]
        self._complaints.clear()
        problems += await self._checkpoint(failed=error is not None)
        if error is not None and not isinstance(error, sa.SandlockAsyncError):
            problems.append(f"it raises {error!r}")
        if took > _HUNG_S / 2:
            problems.append(f"it took {took:.1f} s")
        for problem in problems:
            self.problems.append(f"{what}: {problem}")
            print(self.problems[-1])
        is_done = error is None and "operation_id" in self._way.options
        if problems or is_done or not self._way.old:
            await self.tidy_up()
        return error

    async def tidy_up(self) -> None:
        """Have things as before the first capture."""
        for entry in self._store.iterdir():
            shutil.rmtree(entry)
        if self._way.old or self._tracee.copies():  # which a capture reaps
            await sa.capture_to(self._tracee.pid, self.place, durable=False)
        if not self._way.old:
            shutil.rmtree(self.place.parent, ignore_errors=True)
        self._tracee.status[ERRORS] = 0

    def check(self) -> None:
        """Assert that nothing was wrong."""
        assert not self.problems, "\n".join(self.problems)

    def _left(self, fds: "Counter[str]", threads: int) -> Iterator[str]:
        if open_files() - fds:
            gc.collect()  # what a traceback holds is in a cycle
            if left := open_files() - fds:
                yield f"left open: {dict(left)}"
        if threading.active_count() > threads:
            yield f"threads left: {threading.enumerate()}"
        if BUDGET.used_bytes:
            yield f"{BUDGET.used_bytes} bytes of the budget are taken"
            BUDGET.forget()
        if signals.child_stops_silenced():
            yield "child stops are silenced"
            signals.silence_child_stops(silent=False)

    def _target(self) -> Iterator[str]:
        tracee = self._tracee
        if tracee.process.poll() is not None:
            pytest.fail(f"the target ended; before: {self.problems}")
        if tracee.tracers() != {"0"}:
            yield f"traced by {tracee.tracers()}"
        if copies := tracee.copies():
            yield f"copies left: {copies}"
        before = tracee.status[PROGRESS]
        until(lambda: tracee.status[PROGRESS] > before + 1, "progress of the target")
        if tracee.status[ERRORS]:
            yield f"the target found errors in step {tracee.status[FIRST]}"
            tracee.status[ERRORS] = 0

    async def _checkpoint(self, *, failed: bool) -> list[str]:
        folder = self.place.parent
        there = sorted(os.listdir(folder)) if folder.exists() else []
        if self.place.exists():
            verdict = await sa.verify(self.place)
            problems = [f"the checkpoint: {this}" for this in verdict.findings]
            kept = [name for name in there if name.startswith(STAGE_PREFIX)]
            if failed and self._way.old and len(kept) == 1 and len(there) == 2:
                # The rename may not have reached the disk: what was replaced is kept,
                # whole, until the next capture finds that it has.
                verdict = await sa.verify(folder / kept[0])
                if verdict.ok:
                    shutil.rmtree(folder / kept[0])
                    there = ["it"]
            return problems if there == ["it"] else [*problems, f"left: {there}"]
        if self._way.old or not failed:
            return [f"there is no checkpoint, but {there}"]
        return [f"the folder is left, with {there}"] if folder.exists() else []
