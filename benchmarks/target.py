"""Targets with so much memory, in a sandbox or without one."""

import asyncio
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sandboxes import Sandboxes

MIB = 1 << 20
STRATEGIES = ("fork", "direct")
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where images are written to; the default folder for temporary files if None."""
DISK = os.environ.get("SANDLOCK_ASYNC_BENCH_DISK", "/var/tmp")
"""Where images are written to that are to survive a power cut."""
_PROGRAM = Path(__file__).with_name("program.py")
_PYTHON = os.path.realpath(sys.executable)
_MAPPING_BYTES = 200 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """So many mappings; *filled* bytes in them at every *stride* bytes."""

    count: int
    size: int
    stride: int
    filled: int

    @classmethod
    def dense(cls, size: int) -> "Memory":
        """Return *size* bytes without a hole."""
        count = -(-size // _MAPPING_BYTES)
        return cls(count=count, size=size // count, stride=MIB, filled=MIB)

    @classmethod
    def sparse(cls, count: int) -> "Memory":
        """Return *count* mappings of 200 MB with one page of a hundred."""
        page = mmap.PAGESIZE
        return cls(count=count, size=_MAPPING_BYTES, stride=100 * page, filled=page)

    @property
    def mapped_bytes(self) -> int:
        """What sandlock copies."""
        return self.count * self.size

    def fits(self, times: int) -> bool:
        """Whether there is room for it so many times, and for others besides."""
        content = Path("/proc/meminfo").read_text()
        available = int(content.partition("MemAvailable:")[2].split()[0]) << 10
        return times * self.mapped_bytes <= available * 17 // 20

    def command(self, status: Path, *, spin: bool) -> list[str]:
        """Return the command line of a process that has it."""
        numbers = [self.count, self.size, self.stride, self.filled]
        command = [_PYTHON, "-I", "-S", str(_PROGRAM), *map(str, numbers), str(status)]
        return [*command, "spin"] if spin else command


class Status:
    """What the program tells of itself."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")

    async def ready(self) -> None:
        """Return when the memory is there."""
        patience = time.monotonic() + 120
        while not self._words[0]:
            if time.monotonic() > patience:
                raise TimeoutError("the target does not get ready")
            await asyncio.sleep(0.01)

    def forget_gap(self) -> None:
        """Have the longest gap measured anew."""
        self._words[1] = 0

    @property
    def gap_ms(self) -> float:
        """The longest time that it did not run."""
        return self._words[1] / 1e6


@contextmanager
def sandboxed(
    version: str, memory: Memory, folder: Path, *, spin: bool = False
) -> Generator[tuple[Sandboxes, Status]]:
    """Run a target in a sandbox; wait for its status."""
    home = folder / f"status-{version}-{time.monotonic_ns()}"
    home.mkdir()
    status = Status(home / "status")
    with Sandboxes(
        version,
        memory.command(home / "status", spin=spin),
        readable=(sys.base_prefix, str(_PROGRAM.parent)),
        writable=(str(home),),
    ) as boxes:
        yield boxes, status


@contextmanager
def unconfined(
    memory: Memory, folder: Path
) -> Generator[tuple[subprocess.Popen[bytes], Status]]:
    """Run a target as a child of ours; wait for its status."""
    status = Status(folder / "status")
    process = subprocess.Popen(memory.command(folder / "status", spin=False))
    try:
        yield process, status
    finally:
        process.kill()
        process.wait()
