"""Captures processes as it is told: one line, one answer.

``python -m benchmarks.captor``. It reads ``STORE PID PID …``, and prints nanoseconds.
"""

import asyncio
import sys
import time
from pathlib import Path

import sandlock_async as sa


async def main() -> None:
    """Answer until there is nothing to read any more."""
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        store, *pids = line.split()
        began = time.perf_counter_ns()
        await capture_all(Path(store), list(map(int, pids)))
        print(time.perf_counter_ns() - began, flush=True)


async def capture_all(store: Path, pids: list[int]) -> None:
    """Capture all of them, each to a directory with its number."""
    captures = (sa.capture_to(pid, store / str(pid), durable=False) for pid in pids)
    await asyncio.gather(*captures)


if __name__ == "__main__":
    asyncio.run(main())
