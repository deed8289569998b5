"""The sandbox that ``demo`` captures: a real one, with a program at work in it."""

import asyncio
import importlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from sandlock_async.errors import ProcessGoneError, SandlockAsyncError
from sandlock_async.model import ProcessState
from sandlock_async.target import read_stat
from sandlock_async.workers import Workers

PROGRAM = """
import os, sys, threading, time

notes = bytearray(1 << 20)
page = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)

def count():
    for number in range(1, 50_000):
        line = b"the demo has counted to %012d, truly %012d" % (number, number)
        notes[: len(line)] = line
        os.lseek(page, 0, os.SEEK_SET)
        os.write(page, line)
        time.sleep(0.005)

threading.Thread(target=count).start()
"""
"""Counts, in its memory and in an open file; ends by itself after some minutes."""

_LINE = re.compile(rb"the demo has counted to (\d{12}), truly \1")

_PATIENCE_S = 20.0
_POLL_S = 0.005

_READABLE = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev")

_INSTALL = "pip install 'sandlock-async[sandbox]'"


class _Sandbox(Protocol):
    """What of ``sandlock.Sandbox`` is used here."""

    @property
    def pid(self) -> int | None: ...

    def spawn(self, cmd: list[str]) -> None: ...

    def kill(self) -> None: ...

    def wait(self) -> Any: ...  # noqa: ANN401 - sandlock is not typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A program at work in a sandbox.

    :ivar sandbox: can be captured as it is
    :ivar sandlock: the version of sandlock
    :ivar page: the file in which it counts
    """

    sandbox: _Sandbox
    sandlock: str
    pid: int
    page: Path
    _workers: Workers

    async def count_beyond(self, number: int) -> int:
        """Return how far the program has counted, as soon as that is past *number*.

        :raises SandlockAsyncError: if it does not get there
        """
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            found = await self._workers.run(self._read)
            if found is not None and found > number:
                return found
            if await self._workers.run(self._has_ended):
                raise await self._workers.run(self._ended)
            if time.monotonic() > deadline:
                raise SandlockAsyncError(
                    f"the program in the sandbox (process {self.pid}) made no "
                    f"progress in {_PATIENCE_S:g} s"
                )
            await asyncio.sleep(_POLL_S)

    def _read(self) -> int | None:
        try:
            match = _LINE.search(self.page.read_bytes())
        except FileNotFoundError:
            return None
        return int(match[1]) if match else None

    def _has_ended(self) -> bool:
        try:
            return read_stat(self.pid, "demo").is_dead
        except ProcessGoneError:
            return True

    def _ended(self) -> SandlockAsyncError:
        result = self.sandbox.wait()
        said = (getattr(result, "stderr", None) or b"").decode(errors="replace")
        last = said.strip().rpartition("\n")[2]
        return SandlockAsyncError(
            f"the program in the sandbox ended too early: {last or result}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The program's own line, found in an image.

    :ivar address: where it lies
    :ivar count: how far the program had counted
    """

    address: int
    count: int
    text: str


def find_line(state: ProcessState) -> Found | None:
    """Return the last line that the program had written to its memory."""
    latest: Found | None = None
    for segment in state.memory_data:
        for start, stop in segment.data.ranges():
            for match in _LINE.finditer(segment.data[start:stop]):
                count = int(match[1])
                if latest is None or count > latest.count:
                    address = segment.start + start + match.start()
                    text = match[0].decode()
                    latest = Found(address=address, count=count, text=text)
    return latest


@asynccontextmanager
async def sandbox_at_work(workers: Workers) -> AsyncGenerator[Workload]:
    """Start a sandbox with a program at work in it; it ends with the ``async with``.

    :raises SandlockAsyncError: if there can be none here, saying why
    """
    sandlock = await workers.run(_import)
    folder = await workers.run(_make_folder)
    try:
        page = folder / "page.txt"
        sandbox = sandlock.Sandbox(
            name="demo", fs_readable=_readable(), fs_writable=[str(folder)]
        )
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(page)]
        try:
            await workers.run(_start, sandlock, sandbox, command)
            workload = Workload(
                sandbox=sandbox,
                sandlock=sandlock.__version__,
                pid=sandbox.pid,
                page=page,
                _workers=workers,
            )
            await workload.count_beyond(0)
            yield workload
        finally:
            await workers.run(_end, sandbox)
    finally:
        await workers.run(shutil.rmtree, folder, ignore_errors=True)


def _import() -> ModuleType:
    try:
        return importlib.import_module("sandlock")
    except ModuleNotFoundError as error:
        raise SandlockAsyncError(
            f"the demo needs sandlock: {error}", help=_INSTALL
        ) from error
    except (ImportError, OSError) as error:
        raise SandlockAsyncError(
            f"sandlock does not load here: {error}", help=_INSTALL
        ) from error


def _make_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="sandlock-async-demo-")).resolve()


def _readable() -> list[str]:
    """Return the folders that the interpreter needs in the sandbox."""
    program = str(Path(sys.executable).resolve().parent)
    wanted = (sys.prefix, sys.base_prefix, program, *_READABLE)
    return [path for path in dict.fromkeys(wanted) if os.path.exists(path)]


def _start(sandlock: ModuleType, sandbox: _Sandbox, command: list[str]) -> None:
    found, needed = sandlock.landlock_abi_version(), sandlock.min_landlock_abi()
    if found < needed:
        raise SandlockAsyncError(
            f"sandlock cannot start a sandbox: it needs Landlock ABI {needed}, and "
            f"this kernel has {found if found > 0 else 'no Landlock at all'}",
            help="use Linux 6.12 or newer, with landlock among the lsm= of its "
            "command line, and in a container a seccomp profile that allows it",
        )
    try:
        sandbox.spawn(command)
    except (RuntimeError, OSError, sandlock.SandlockError) as error:
        raise SandlockAsyncError(
            f"sandlock cannot start a sandbox: {error}",
            help="it needs Landlock, seccomp filters with user notification and "
            "ptrace; a container, or another sandbox around it, may forbid them",
        ) from error


def _end(sandbox: _Sandbox) -> None:
    if sandbox.pid is not None:
        sandbox.kill()
        sandbox.wait()
