"""A target: so much private memory, filled in so far; it sleeps, or watches the clock.

``program.py COUNT SIZE STRIDE FILLED STATUS [spin]``: COUNT mappings of SIZE bytes,
FILLED bytes of random content at every STRIDE bytes. Standard library only: it runs
in sandboxes. STATUS is a file of two numbers: ready, and the longest time in ns that
it did not run, as seen by itself.
"""

import mmap
import os
import signal
import sys
import time

_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def main() -> None:
    count, size, stride, filled = map(int, sys.argv[1:5])
    with open(sys.argv[5], "r+b") as file:
        status = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")
    content = os.urandom(filled)
    kept = []
    for number in range(count):
        memory = mmap.mmap(-1, size, _PRIVATE)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        # The kernel joins equal neighbours, and sandlock 0.9.0 refuses mappings over
        # 256 MiB. This makes them differ, and does nothing else to private memory.
        memory.madvise(mmap.MADV_SEQUENTIAL if number % 2 else mmap.MADV_RANDOM)
        kept.append(memory)
        for at in range(0, size, stride):
            memory[at : at + filled] = content
    status[0] = 1
    if "spin" not in sys.argv:
        signal.pause()
    clock = time.monotonic_ns
    last = clock()
    while True:
        now = clock()
        # No max(): its store might undo somebody's setting it to zero.
        if now - last > status[1]:  # noqa: PLR1730
            status[1] = now - last
        last = now


if __name__ == "__main__":
    main()
