"""Holds sandboxes, and checkpoints them as it is told: one line, one answer.

``worker.py PROGRAM READABLE WRITABLE COUNT``, with a python that has sandlock. It
prints the pids; then it reads ``one STORE DURABLE``, ``all STORE THREADS`` or, with a
python that has our package as well, ``ours STORE 0``, and prints nanoseconds.
"""

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandlock import Sandbox  # type: ignore[import-untyped]


def main() -> None:
    program, readable, writable = (argument.split("|") for argument in sys.argv[1:4])
    boxes = [
        Sandbox(fs_readable=readable, fs_writable=[path for path in writable if path])
        for _ in range(int(sys.argv[4]))
    ]
    for box in boxes:
        box.spawn(program)
    print(*(box.pid for box in boxes), flush=True)
    for line in sys.stdin:
        what, store, number = line.split()
        began = time.perf_counter_ns()
        taken = 0
        if what == "one":
            taken = _take(boxes[0], store, "it")
            if number != "0":
                _sync(Path(store))
        elif what == "ours":
            asyncio.run(_take_ours(boxes, Path(store)))
        else:
            with ThreadPoolExecutor(int(number)) as pool:
                names = (str(index) for index in range(len(boxes)))
                list(pool.map(_take, boxes, [store] * len(boxes), names))
        print(taken, time.perf_counter_ns() - began, flush=True)
    for box in boxes:
        box.kill()
    for box in boxes:
        box.wait()


def _take(box: Sandbox, store: str, name: str) -> int:
    """Checkpoint and save; return the nanoseconds of the former."""
    began = time.perf_counter_ns()
    checkpoint = box.checkpoint()
    taken = time.perf_counter_ns() - began
    checkpoint.save(name, store=store)
    return taken


async def _take_ours(boxes: list[Sandbox], store: Path) -> None:
    import sandlock_async as sa

    captures = (
        sa.capture_to(box, store / str(box.pid), durable=False) for box in boxes
    )
    await asyncio.gather(*captures)


def _sync(store: Path) -> None:
    for path in (store, *store.rglob("*")):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


if __name__ == "__main__":
    main()
