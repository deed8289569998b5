"""Several processes that capture side by side."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self


class Captors:
    """*count* processes with our package, each with an event loop of its own."""

    def __init__(self, count: int) -> None:
        command = [sys.executable, "-m", "benchmarks.captor"]
        self._processes = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(count)
        ]
        for process in self._processes:
            _line(process)

    async def capture_all(self, store: Path, pids: list[int]) -> float:
        """Share the captures out; return the milliseconds until all are there."""
        return await asyncio.to_thread(self._capture_all, store, pids)

    def _capture_all(self, store: Path, pids: list[int]) -> float:
        began = time.perf_counter()
        for index, process in enumerate(self._processes):
            assert process.stdin is not None
            share = pids[index :: len(self._processes)]
            process.stdin.write(" ".join([str(store), *map(str, share)]) + "\n")
            process.stdin.flush()
        for process in self._processes:
            _line(process)
        return 1e3 * (time.perf_counter() - began)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.communicate()


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a process that captures has failed; see its traceback")
    return line
